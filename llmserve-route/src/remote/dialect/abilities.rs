//! What a dialect of OpenAI's API can honour, and the check that a request asks for no more.

use llmserve_core::{Constraint, Error, Prompt, Request};

use super::unsupported;

/// The most choices that OpenAI gives, and our gateway.
const MAX_CHOICES: usize = 128;

/// Each flag: whether the field of the request of that name can be honoured.
#[derive(Clone, Copy)]
pub(super) struct Abilities {
    /// The dialect's name, for errors.
    pub(super) name: &'static str,
    pub(super) top_k: bool,
    pub(super) min_p: bool,
    pub(super) repetition_penalty: bool,
    pub(super) min_tokens: bool,
    pub(super) ignore_eos: bool,
    pub(super) stop_tokens: bool,
    pub(super) special_tokens: bool,
    /// Logprobs that name tokens by id.
    pub(super) logprobs: bool,
    /// More than one choice.
    pub(super) choices: bool,
    pub(super) regex: bool,
    pub(super) choice: bool,
    pub(super) lark: bool,
    pub(super) resume: bool,
    /// Completions without a limit: others stop after a few tokens of their own accord.
    pub(super) unlimited: bool,
}

impl Abilities {
    /// What OpenAI documents.
    pub(super) const OPENAI: Self = Self {
        name: "OpenAI's API",
        top_k: false,
        min_p: false,
        repetition_penalty: false,
        min_tokens: false,
        ignore_eos: false,
        stop_tokens: false,
        special_tokens: false,
        logprobs: false,
        choices: true,
        regex: false,
        choice: false,
        lark: false,
        resume: false,
        unlimited: false,
    };

    /// Whether `request` asks for nothing else.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] with the first field that cannot be honoured.
    pub(super) fn check(&self, request: &Request) -> Result<(), Error> {
        let sampling = &request.sampling;
        let regex = matches!(request.constraint, Some(Constraint::Regex(_)));
        let choice = matches!(request.constraint, Some(Constraint::Choice(_)));
        let lark = matches!(request.constraint, Some(Constraint::Lark(_)));
        let chat = matches!(request.prompt, Prompt::Messages(_));
        let unlimited = request.max_tokens.is_none() && !chat;
        for (field, asked, able) in [
            ("processors", !request.processors.is_empty(), false),
            ("prompt_logprobs", request.prompt_logprobs.is_some(), false),
            ("n", request.n != 1, self.choices),
            ("top_k", sampling.top_k.is_some(), self.top_k),
            ("min_p", sampling.min_p != 0.0, self.min_p),
            (
                "repetition_penalty",
                sampling.repetition_penalty != 1.0,
                self.repetition_penalty,
            ),
            ("min_tokens", request.min_tokens != 0, self.min_tokens),
            ("ignore_eos", request.ignore_eos, self.ignore_eos),
            (
                "stop_tokens",
                !request.stop_tokens.is_empty(),
                self.stop_tokens,
            ),
            (
                "skip_special_tokens",
                !request.skip_special_tokens,
                self.special_tokens,
            ),
            ("logprobs", request.logprobs.is_some(), self.logprobs),
            ("constraint", regex, self.regex),
            ("constraint", choice, self.choice),
            ("constraint", lark, self.lark),
            ("resume", !request.resume.is_empty(), self.resume),
            ("max_tokens", unlimited, self.unlimited),
        ] {
            if asked && !able {
                return Err(unsupported(field, self.name));
            }
        }
        // Neither in JSON, nor anywhere a meaning.
        let numbers = [
            ("temperature", sampling.temperature),
            ("top_p", sampling.top_p),
            ("min_p", sampling.min_p),
            ("repetition_penalty", sampling.repetition_penalty),
            ("presence_penalty", sampling.presence_penalty),
            ("frequency_penalty", sampling.frequency_penalty),
        ];
        if let Some((field, value)) = numbers.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::invalid_request(field, format!("{value}")));
        }
        if !(1..=MAX_CHOICES).contains(&request.n) {
            let reason = format!("{} is not in 1..={MAX_CHOICES}", request.n);
            return Err(Error::invalid_request("n", reason));
        }
        Ok(())
    }
}
