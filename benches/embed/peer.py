#!/usr/bin/env python3
"""onnxruntime on the same weights and tokens, for `cargo bench --bench embed -- --peer PYTHON`.

Usage: peer.py FOLDER THREADS; needs numpy, onnx, onnxruntime and safetensors. Reads a line of JSON
for each question, {"ids": [[id, ...], ...], "calls": N}, with as many ids in each list, and answers
{"seconds": [of each call], "vectors": [[number, ...], ...]}. The graph is the one that
onnxruntime's own optimiser for transformers makes of such a model: attention, skip and norm, bias
and GELU are one operator each.
"""
import json
import os
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

CONTRIB = "com.microsoft"


def graph(folder):
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    weights = load_file(os.path.join(folder, "model.safetensors"))
    nodes, constants = [], []

    def constant(name, array):
        array = np.ascontiguousarray(array, dtype=np.float32)
        constants.append(numpy_helper.from_array(array, name))
        return name

    def node(op, inputs, output, domain="", **attributes):
        nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def tensor(name):
        return constant(name, weights[name])

    def matrix(name):
        return constant(name, weights[name].T)

    epsilon = config["layer_norm_eps"]
    words = tensor("embeddings.word_embeddings.weight")
    positions = constant(
        "positions",
        weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0],
    )
    word = node("Gather", [words, "ids"], "word")
    place = node("Gather", [positions, "places"], "place")
    x = node("Add", [word, place], "embedded")
    norm = [tensor(f"embeddings.LayerNorm.{part}") for part in ("weight", "bias")]
    x = node("LayerNormalization", [x, *norm], "x", epsilon=epsilon)
    for layer in range(config["num_hidden_layers"]):
        part = f"encoder.layer.{layer}"
        attention = f"{part}.attention"
        names = [f"{attention}.self.{name}" for name in ("query", "key", "value")]
        qkv = constant(f"{part}.qkv", np.concatenate([weights[f"{n}.weight"].T for n in names], 1))
        bias = constant(f"{part}.qkv_bias", np.concatenate([weights[f"{n}.bias"] for n in names]))
        heads = config["num_attention_heads"]
        mixed = node("Attention", [x, qkv, bias], f"{part}.mixed", CONTRIB, num_heads=heads)

        def skip(y, x, name, part):
            norm = [tensor(f"{part}.LayerNorm.{which}") for which in ("weight", "bias")]
            bias = tensor(f"{part}.dense.bias")
            inputs = [y, x, *norm, bias]
            return node("SkipLayerNormalization", inputs, name, CONTRIB, epsilon=epsilon)

        y = node("MatMul", [mixed, matrix(f"{attention}.output.dense.weight")], f"{part}.projected")
        x = skip(y, x, f"{part}.attended", f"{attention}.output")
        y = node("MatMul", [x, matrix(f"{part}.intermediate.dense.weight")], f"{part}.wide")
        y = node("BiasGelu", [y, tensor(f"{part}.intermediate.dense.bias")], f"{part}.gelu", CONTRIB)
        y = node("MatMul", [y, matrix(f"{part}.output.dense.weight")], f"{part}.narrow")
        x = skip(y, x, f"{part}.out", f"{part}.output")
    pooled = node("ReduceMean", [x, "tokens"], "pooled", keepdims=0)
    constants.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "tokens"))
    node("LpNormalization", [pooled], "vectors", axis=-1, p=2)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "length"])
    places = helper.make_tensor_value_info("places", TensorProto.INT64, ["length"])
    shape = ["texts", config["hidden_size"]]
    vectors = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, shape)
    body = helper.make_graph(nodes, "encoder", [ids, places], [vectors], constants)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(body, opset_imports=imports)
    model.ir_version = 9
    return model


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    model = graph(folder).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    print(json.dumps({"name": f"onnxruntime {onnxruntime.__version__}"}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        ids = np.array(question["ids"], dtype=np.int64)
        inputs = {"ids": ids, "places": np.arange(ids.shape[1], dtype=np.int64)}
        seconds = []
        for _ in range(question["calls"]):
            began = time.perf_counter()
            (vectors,) = session.run(None, inputs)
            seconds.append(time.perf_counter() - began)
        answer = {"seconds": seconds, "vectors": vectors.tolist()}
        print(json.dumps(answer), flush=True)


main()
