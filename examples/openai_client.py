"""The official OpenAI client against the `server` example.

    cargo run --release --example server -- --port 8000
    pip install openai
    python examples/openai_client.py http://127.0.0.1:8000/v1

Completes, chats and streams, in text and in JSON; exits with 0 if all answers are what they should
be, and names what is not.
"""

import json
import sys

import openai


def main(base_url):
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    print("model:", model)

    whole = client.completions.create(
        model=model, prompt="HAMLET", max_tokens=24, temperature=0, logprobs=2
    )
    choice = whole.choices[0]
    print("completion:", repr(choice.text))
    assert choice.finish_reason == "length", choice
    assert whole.usage.completion_tokens == 24, whole.usage
    assert len(choice.logprobs.tokens) == 24, choice.logprobs

    stream = client.completions.create(
        model=model,
        prompt="HAMLET",
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    print("streamed:", repr(text))
    assert text == choice.text, "a stream adds up to the whole"
    assert chunks[-1].usage.completion_tokens == 24, chunks[-1]

    messages = [{"role": "user", "content": "Who is there?"}]
    options = dict(model=model, messages=messages, max_completion_tokens=16, seed=7)
    chat = client.chat.completions.create(**options, n=2, logprobs=True, top_logprobs=1)
    print("chat:", [choice.message.content for choice in chat.choices])
    assert [choice.index for choice in chat.choices] == [0, 1]
    assert chat.choices[0].message.role == "assistant"
    assert chat.choices[0].logprobs.content[0].top_logprobs, chat.choices[0]

    with client.chat.completions.create(**options, stream=True) as stream:
        pieces = [chunk.choices[0] for chunk in stream]
    assert pieces[0].delta.role == "assistant", pieces[0]
    assert pieces[-1].finish_reason in ("stop", "length"), pieces[-1]
    streamed = "".join(piece.delta.content or "" for piece in pieces)
    print("streamed:", repr(streamed))
    assert streamed == chat.choices[0].message.content, "the same seed, the same answer"

    schema = {
        "type": "object",
        "properties": {"dead": {"type": "boolean"}},
        "required": ["dead"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Is he dead?"}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    )
    print("structured:", answer.choices[0].message.content)
    assert isinstance(json.loads(answer.choices[0].message.content)["dead"], bool)
    answer = client.chat.completions.create(
        model=model,
        messages=messages,
        extra_body={"structured_outputs": {"choice": ["yes", "no"]}, "return_token_ids": True},
    )
    assert answer.choices[0].message.content in ("yes", "no"), answer

    for error, call in (
        (openai.NotFoundError, lambda: client.completions.create(model="none", prompt="x")),
        (
            openai.BadRequestError,
            lambda: client.chat.completions.create(model=model, messages=messages, top_p=7),
        ),
    ):
        try:
            call()
        except error as refused:
            print("refused:", refused.status_code, refused.body)
        else:
            raise AssertionError(f"no {error.__name__}")

    # Leaving early closes the connection, which cancels the request.
    stream = client.completions.create(
        model=model, prompt="KING", max_tokens=500, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1")
