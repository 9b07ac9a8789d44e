//! A writer of small safetensors files, for tests.

use super::FileDType;

/// The bytes of a safetensors file with the given tensors, in the given order.
pub(crate) fn safetensors(tensors: &[(&str, FileDType, &[usize], &[u8])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let from = data.len();
        data.extend_from_slice(bytes);
        header.insert(
            (*name).to_owned(),
            serde_json::json!({
                "dtype": dtype.to_string().to_uppercase(),
                "shape": shape,
                "data_offsets": [from, data.len()],
            }),
        );
    }
    with_header(&serde_json::Value::Object(header).to_string(), &data)
}

/// A file of any header, honest or not.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// The little-endian bytes of `values`.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
