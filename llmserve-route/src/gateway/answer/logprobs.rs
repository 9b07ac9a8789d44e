//! Logprobs as OpenAI tells them: tokens by their text, or by their ids.

use llmserve_core::{TokenId, TokenLogprobs, Tokenizer};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::Kind;

/// JSON has no infinity: what vLLM writes instead.
const IMPOSSIBLE: f64 = -9999.0;

/// How a token is called.
pub(super) enum Naming<'a> {
    Text(&'a dyn Tokenizer),
    /// `token_id:17`, as vLLM does when asked to.
    Id,
}

impl Naming<'_> {
    fn name(&self, id: TokenId) -> String {
        match self {
            Naming::Text(tokenizer) => tokenizer
                .decode(&[id], false)
                .unwrap_or_else(|_| Naming::Id.name(id)),
            Naming::Id => format!("token_id:{id}"),
        }
    }

    /// The bytes of a token's text, where they are known.
    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        // A part of a character has no text of its own.
        let whole = matches!(self, Naming::Text(_)) && !name.contains('\u{fffd}');
        whole.then(|| name.as_bytes().to_vec())
    }
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Logprobs {
    Completion {
        tokens: Vec<String>,
        token_logprobs: Vec<f64>,
        top_logprobs: Vec<Top>,
        text_offset: Vec<usize>,
    },
    Chat {
        content: Vec<Token>,
        refusal: Option<String>,
    },
}

/// Names and logprobs, as an object. No name comes twice: the more probable one is told.
pub(super) struct Top(Vec<(String, f64)>);

impl Serialize for Top {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (at, (name, logprob)) in self.0.iter().enumerate() {
            if !self.0[..at].iter().any(|(other, _)| other == name) {
                map.serialize_entry(name, logprob)?;
            }
        }
        map.end()
    }
}

#[derive(Serialize)]
pub(super) struct Token {
    #[serde(flatten)]
    own: Alternative,
    top_logprobs: Vec<Alternative>,
}

#[derive(Serialize)]
struct Alternative {
    token: String,
    logprob: f64,
    bytes: Option<Vec<u8>>,
}

impl Logprobs {
    /// Those of `list`, whose text begins `offset` characters into the answer.
    pub(super) fn new<'a>(
        kind: Kind,
        names: &Naming<'_>,
        list: impl Iterator<Item = &'a TokenLogprobs>,
        offset: usize,
    ) -> Self {
        match kind {
            Kind::Chat => Logprobs::Chat {
                content: list.map(|token| in_chat(names, token)).collect(),
                refusal: None,
            },
            Kind::Completion => {
                let (mut tokens, mut token_logprobs) = (Vec::new(), Vec::new());
                let (mut top_logprobs, mut text_offset) = (Vec::new(), Vec::new());
                let mut offset = offset;
                for token in list {
                    let name = names.name(token.id);
                    text_offset.push(offset);
                    if matches!(names, Naming::Text(_)) {
                        offset += name.chars().count();
                    }
                    tokens.push(name);
                    token_logprobs.push(finite(token.logprob));
                    let top = token.top.iter();
                    top_logprobs.push(Top(top
                        .map(|(id, logprob)| (names.name(*id), finite(*logprob)))
                        .collect()));
                }
                Logprobs::Completion {
                    tokens,
                    token_logprobs,
                    top_logprobs,
                    text_offset,
                }
            }
        }
    }
}

fn in_chat(names: &Naming<'_>, token: &TokenLogprobs) -> Token {
    let one = |id, logprob| {
        let name = names.name(id);
        Alternative {
            bytes: names.bytes(&name),
            token: name,
            logprob: finite(logprob),
        }
    };
    let top = token.top.iter();
    Token {
        own: one(token.id, token.logprob),
        top_logprobs: top.map(|(id, logprob)| one(*id, *logprob)).collect(),
    }
}

fn finite(logprob: f32) -> f64 {
    if logprob.is_finite() {
        f64::from(logprob)
    } else {
        IMPOSSIBLE
    }
}
