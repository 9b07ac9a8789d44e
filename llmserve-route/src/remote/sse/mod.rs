//! Server-sent events, from bytes that arrive in any pieces.

#[cfg(test)]
mod tests;

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its type; empty where the server gave none.
    pub event: String,
    /// Its data: the lines of it, joined by line feeds.
    pub data: String,
}

/// An event is longer than is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {limit} bytes")]
pub struct SseTooLong {
    /// The limit, in bytes.
    pub limit: usize,
}

/// Parses a stream of server-sent events as the HTML standard has it: lines end with a line feed, a
/// carriage return or both, several `data` lines are one text, comments and unknown fields mean
/// nothing, and bytes that are no UTF-8 become U+FFFD. Pieces may end anywhere, within a character
/// too: what comes out does not depend on where.
///
/// ```
/// use llmserve_route::remote::SseParser;
/// let mut parser = SseParser::new(1024);
/// let mut events = Vec::new();
/// let text = "data: to be\r\ndata: or é\r\n\r\n".as_bytes();
/// for byte in text {
///     parser.push(&[*byte], &mut events)?;
/// }
/// assert_eq!(events[0].data, "to be\nor é");
/// # Ok::<(), llmserve_route::remote::SseTooLong>(())
/// ```
#[derive(Clone, Debug)]
pub struct SseParser {
    /// The beginning of a line.
    line: Vec<u8>,
    event: String,
    data: String,
    /// Whether a `data` line has come since the last event.
    has_data: bool,
    /// Whether the last byte was a carriage return: a line feed after it is the same line's end.
    after_return: bool,
    /// Whether nothing has come yet: a byte order mark may.
    at_beginning: bool,
    limit: usize,
}

impl SseParser {
    /// A parser at the beginning of a stream. A line, and an event's data, have at most `limit`
    /// bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            line: Vec::new(),
            event: String::new(),
            data: String::new(),
            has_data: false,
            after_return: false,
            at_beginning: true,
            limit,
        }
    }

    /// Takes the next bytes, and appends the events that they complete.
    ///
    /// # Errors
    /// [`SseTooLong`]; the parser is of no use then.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<SseEvent>) -> Result<(), SseTooLong> {
        if self.after_return && !bytes.is_empty() {
            self.after_return = false;
            if bytes[0] == b'\n' {
                bytes = &bytes[1..];
            }
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (piece, rest) = bytes.split_at(end);
            self.append(piece)?;
            let line = std::mem::take(&mut self.line);
            self.line(&line, out)?;
            // Its memory is kept for the next line.
            self.line = line;
            self.line.clear();
            bytes = &rest[1..];
            if rest[0] == b'\r' {
                match bytes.first() {
                    Some(b'\n') => bytes = &bytes[1..],
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
        }
        self.append(bytes)
    }

    /// What has come since the last event, where the stream ends without the empty line that
    /// completes it. By the standard it is nothing; some servers end so nevertheless.
    pub fn finish(mut self) -> Option<SseEvent> {
        let line = std::mem::take(&mut self.line);
        let mut none = Vec::new();
        self.line(&line, &mut none).ok()?;
        self.has_data.then_some(SseEvent {
            event: self.event,
            data: self.data,
        })
    }

    fn append(&mut self, piece: &[u8]) -> Result<(), SseTooLong> {
        if self.line.len() + piece.len() > self.limit {
            return Err(SseTooLong { limit: self.limit });
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    fn line(&mut self, mut line: &[u8], out: &mut Vec<SseEvent>) -> Result<(), SseTooLong> {
        if std::mem::take(&mut self.at_beginning) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) {
                let data = std::mem::take(&mut self.data);
                out.push(SseEvent { event, data });
            }
            return Ok(());
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                if self.data.len() + value.len() > self.limit {
                    return Err(SseTooLong { limit: self.limit });
                }
                self.data.push_str(&String::from_utf8_lossy(value));
            }
            b"event" => self.event = String::from_utf8_lossy(value).into_owned(),
            // Comments, `id` and `retry`: nobody resumes such a stream.
            _ => {}
        }
        Ok(())
    }
}
