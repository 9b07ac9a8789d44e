//! An entry's bytes, as foyer takes them.

use std::io::{Read, Write};
use std::sync::Arc;

use foyer::{Code, Error, Result};

/// [`Entry::to_bytes`](crate::Entry::to_bytes), or nothing: it was removed.
#[derive(Clone, Debug)]
pub(super) struct Blob(pub(super) Arc<[u8]>);

impl Code for Blob {
    fn encode(&self, writer: &mut impl Write) -> Result<()> {
        writer.write_all(&self.0).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> Result<Self> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(Error::io_error)?;
        Ok(Self(bytes.into()))
    }

    fn estimated_size(&self) -> usize {
        self.0.len()
    }
}
