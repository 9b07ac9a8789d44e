use super::testing::{f32_bytes, safetensors, with_header};
use super::*;
use proptest::prelude::*;
use tempfile::TempDir;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn open_bytes(bytes: &[u8]) -> Result<Weights, LoadError> {
    Weights::open(folder(&[("model.safetensors", bytes)]).path())
}

fn small() -> Vec<u8> {
    safetensors(&[
        ("b", FileDType::BF16, &[2, 1], &[0x80, 0x3f, 0, 0xc0]),
        ("a", FileDType::F32, &[3], &f32_bytes(&[1.0, 2.0, 3.0])),
        ("h", FileDType::F16, &[1], &[0, 0x3c]),
    ])
}

#[test]
fn reads_what_candle_writes() {
    use candle_core::{DType, Device, Tensor};
    let dir = tempfile::tempdir().unwrap();
    let x = Tensor::arange(0f32, 12.0, &Device::Cpu)
        .unwrap()
        .reshape((3, 4))
        .unwrap();
    let tensors = [DType::F32, DType::F16, DType::BF16]
        .map(|dtype| (format!("{dtype:?}"), x.to_dtype(dtype).unwrap()));
    let tensors = std::collections::HashMap::from(tensors);
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["BF16", "F16", "F32"]);
    for (name, dtype) in [
        ("F32", FileDType::F32),
        ("F16", FileDType::F16),
        ("BF16", FileDType::BF16),
    ] {
        let view = weights.tensor(name, &[3, 4]).unwrap();
        assert_eq!(view.dtype, dtype);
        assert_eq!(view.elements(), 12);
        assert_eq!(view.to_f32(), (0..12u8).map(f32::from).collect::<Vec<_>>());
    }
    assert_eq!(weights.total_bytes(), 12 * 8);
}

#[test]
fn values_come_out_in_order_and_unaligned() {
    let weights = open_bytes(&small()).unwrap();
    assert_eq!(weights.tensor("b", &[2, 1]).unwrap().to_f32(), [1.0, -2.0]);
    assert_eq!(weights.tensor("a", &[3]).unwrap().to_f32(), [1.0, 2.0, 3.0]);
    assert_eq!(weights.tensor("h", &[1]).unwrap().to_f32(), [1.0]);
}

#[test]
fn a_wrong_shape_names_both() {
    let weights = open_bytes(&small()).unwrap();
    match weights.tensor("a", &[3, 1]) {
        Err(LoadError::WrongShape {
            tensor,
            expected,
            found,
        }) => {
            assert_eq!(
                (tensor.as_str(), expected, found),
                ("a", vec![3, 1], vec![3])
            );
        }
        other => panic!("{other:?}"),
    }
    let error = weights.tensor("nope", &[]).unwrap_err();
    assert!(matches!(&error, LoadError::MissingTensor { name } if name == "nope"));
}

#[test]
fn other_formats_are_refused_when_asked_for() {
    let header = r#"{"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"n":{"dtype":"F7","shape":[3],"data_offsets":[8,9]}}"#;
    let weights = open_bytes(&with_header(header, &[0; 9])).unwrap();
    assert!(weights.contains("i"));
    for (name, format) in [("i", "I64"), ("n", "F7")] {
        assert!(matches!(
            weights.view(name),
            Err(LoadError::UnsupportedDType { dtype, .. }) if dtype == format
        ));
    }
}

#[test]
fn missing_things_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Weights::open(&dir.path().join("gone")).unwrap_err();
    assert!(matches!(error, LoadError::Missing { .. }));
    let error = Weights::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors.index.json"), "{error}");
    std::fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert!(matches!(
        Weights::open(dir.path()),
        Err(LoadError::NotAFile { .. })
    ));
}

#[test]
fn truncation_says_how_much_is_missing() {
    let whole = small();
    for length in 0..whole.len() {
        match open_bytes(&whole[..length]) {
            Err(LoadError::Truncated {
                expected, found, ..
            }) => {
                assert_eq!(found, length as u64);
                assert!(expected > found && expected <= whole.len() as u64);
            }
            other => panic!("cut at {length}: {other:?}"),
        }
    }
}

#[test]
fn a_lying_header_is_refused() {
    let tensor = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let two = |a: (u64, u64), b: (u64, u64)| {
        format!(
            r#"{{"x":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}},"y":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}}}"#,
            a.0, a.1, b.0, b.1
        )
    };
    let max = u64::MAX;
    for (header, says) in [
        (tensor("F32", "[2]", 0, 4), "4 bytes"),
        (tensor("F32", "[1]", 4, 0), "before it starts"),
        (tensor("F32", "[1]", 4, 8), "gap"),
        (two((0, 4), (0, 4)), "overlaps"),
        (two((0, 4), (2, 6)), "overlaps"),
        (
            tensor("F32", "[4294967296,4294967296]", 0, 4),
            "impossible shape",
        ),
        (tensor("F32", &format!("[{max}]"), 0, 4), "is given 4 bytes"),
        (tensor("F32", "[-1]", 0, 4), "header"),
        (tensor("F32", "[1.5]", 0, 4), "header"),
        (tensor("F4", "[1]", 0, 1), "is given 1 bytes"),
        (two((0, 4), (4, 8)).replace("\"y\"", "\"x\""), "as well"),
        (tensor("U8", "[2]", 0, 2), "follow its last tensor"),
        ("[]".to_owned(), "object"),
        ("{}".to_owned(), "follow its last tensor"),
        ("{\"x\": 1}".to_owned(), "header"),
        ("not json".to_owned(), "header"),
    ] {
        let error = open_bytes(&with_header(&header, &[0; 8])).unwrap_err();
        assert!(
            matches!(error, LoadError::Corrupt { .. }),
            "{header}: {error}"
        );
        assert!(error.to_string().contains(says), "{header}: {error}");
    }
    // Ends near the top of the address space must not wrap around.
    let header = tensor("U8", &format!("[{}]", i64::MAX), 0, i64::MAX as u64);
    assert!(matches!(
        open_bytes(&with_header(&header, &[0; 8])),
        Err(LoadError::Truncated { .. })
    ));
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(open_bytes(&huge), Err(LoadError::Corrupt { .. })));
    let long = [&1_000u64.to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(
        open_bytes(&long),
        Err(LoadError::Truncated { expected: 1008, .. })
    ));
}

fn shard(name: &str) -> Vec<u8> {
    safetensors(&[(name, FileDType::F32, &[1], &f32_bytes(&[1.0]))])
}

fn sharded(index: &str, files: &[(&str, &[u8])]) -> Result<Weights, LoadError> {
    let mut all = vec![(INDEX, index.as_bytes())];
    all.extend_from_slice(files);
    Weights::open(folder(&all).path())
}

#[test]
fn shards_are_one_checkpoint() {
    let index =
        r#"{"metadata":{"total_size":8},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
    let files: [(&str, &[u8]); 2] = [
        ("1.safetensors", &shard("a")),
        ("2.safetensors", &shard("b")),
    ];
    let weights = sharded(index, &files).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.files().count(), 2);
    assert_eq!(weights.tensor("b", &[1]).unwrap().to_f32(), [1.0]);

    let error = sharded(index, &files[..1]).unwrap_err();
    assert!(matches!(&error, LoadError::Missing { path, .. } if path.ends_with("2.safetensors")));
    assert!(error.to_string().contains(INDEX), "{error}");
}

#[test]
fn an_index_that_lies_is_refused() {
    let two: [(&str, &[u8]); 2] = [("1", &shard("a")), ("2", &shard("b"))];
    let twice: [(&str, &[u8]); 2] = [("1", &shard("a")), ("2", &shard("a"))];
    for (index, files, says) in [
        (
            r#"{"weight_map":{"a":"2","b":"2"}}"#,
            &two[..],
            "no such tensor",
        ),
        (
            r#"{"weight_map":{"a":"2","b":"1"}}"#,
            &two,
            "but 1 holds it",
        ),
        (
            r#"{"weight_map":{"a":"1","c":"2"}}"#,
            &two,
            "no such tensor",
        ),
        (r#"{"weight_map":{"a":"1","b":"2"}}"#, &twice, "as well"),
        (r#"{"weight_map":{}}"#, &two, "no tensor"),
        (r#"{"weight_map":{"a":"../1"}}"#, &two, "plain file name"),
        (
            r#"{"weight_map":{"a":"/etc/passwd"}}"#,
            &two,
            "plain file name",
        ),
        (r#"{"weight_map":{"a":".."}}"#, &two, "plain file name"),
        (r#"{"weight_map":{"a":""}}"#, &two, "plain file name"),
        (r#"{"weight_map":{"a":"x/../1"}}"#, &two, "plain file name"),
        (r#"{"weight_map":["a"]}"#, &two, "expected"),
        (r#"{}"#, &two, "weight_map"),
        ("", &two, "EOF"),
    ] {
        let error = sharded(index, files).unwrap_err();
        assert!(
            matches!(error, LoadError::Corrupt { .. }),
            "{index}: {error}"
        );
        assert!(error.to_string().contains(says), "{index}: {error}");
    }
}

proptest! {
    /// Any bytes at all are either refused or can be read to the last element.
    #[test]
    fn no_bytes_make_it_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        tail in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut bytes = small();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(tail);
        read_all(&bytes);
    }

    /// Headers that are honest JSON but otherwise arbitrary.
    #[test]
    fn no_offsets_make_it_panic(
        tensors in prop::collection::vec(
            (prop::sample::select(vec!["F32", "BF16", "U8", "F4", "?"]),
             prop::collection::vec(prop_oneof![0u64..5, any::<u64>()], 0..3),
             prop_oneof![0u64..20, any::<u64>()], prop_oneof![0u64..20, any::<u64>()]),
            0..4),
        data in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let header: serde_json::Map<_, _> = tensors
            .into_iter()
            .enumerate()
            .map(|(i, (dtype, shape, from, to))| {
                (i.to_string(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]}))
            })
            .collect();
        read_all(&with_header(&serde_json::Value::Object(header).to_string(), &data));
    }
}

fn read_all(bytes: &[u8]) {
    if let Ok(entries) = header::read(Path::new("x"), bytes) {
        for entry in entries {
            assert!(bytes.get(entry.bytes).is_some());
        }
    }
    if let Ok(weights) = open_bytes(bytes) {
        for name in weights.names() {
            if let Ok(view) = weights.view(name) {
                assert_eq!(view.to_f32().len(), view.shape.iter().product::<usize>());
            }
        }
    }
}
