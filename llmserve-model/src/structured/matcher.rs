//! One choice's way through its grammar.

use std::sync::Arc;

use llguidance::Matcher;
use llmserve_core::{GrammarError, GrammarMatcher, TokenId, TokenMask};

/// The library's matcher, and the runs of forced tokens it came through.
///
/// The library tells a run from where it is asked; asked in the middle of one, it might tell
/// another. Here a run that has begun is followed to its end, so that it is the same whether it is
/// taken at once, token by token, or proposed and taken back.
pub(super) struct Following {
    matcher: Matcher,
    eos: Arc<[TokenId]>,
    /// Whether the library can take tokens back: not where a grammar limits the length of a
    /// terminal in tokens, or ends one by a `stop`.
    reversible: bool,
    /// Tokens accepted.
    accepted: usize,
    /// Runs that began before or where the grammar stands, in order.
    runs: Vec<Run>,
    /// Where it was asked for a run last and there was none.
    free: Option<usize>,
}

/// Tokens that had to follow after the first `begin` ones; at least one.
struct Run {
    begin: usize,
    tokens: Vec<TokenId>,
}

fn broken(error: impl std::fmt::Display) -> GrammarError {
    GrammarError::Broken(error.to_string())
}

impl Following {
    pub(super) fn new(matcher: Matcher, eos: Arc<[TokenId]>, reversible: bool) -> Self {
        Self {
            matcher,
            eos,
            reversible,
            accepted: 0,
            runs: Vec::new(),
            free: None,
        }
    }

    /// The tokens that must follow.
    fn rest_of_run(&mut self) -> Result<&[TokenId], GrammarError> {
        let begin = self.accepted;
        let inside = self.runs.last();
        let inside = inside.is_some_and(|run| begin < run.begin + run.tokens.len());
        if !inside {
            if self.free == Some(begin) || self.matcher.is_stopped() {
                return Ok(&[]);
            }
            let tokens = self.matcher.compute_ff_tokens();
            self.check()?;
            if tokens.is_empty() {
                self.free = Some(begin);
                return Ok(&[]);
            }
            self.runs.push(Run { begin, tokens });
        }
        let run = self.runs.last();
        Ok(run.map_or(&[], |run| &run.tokens[begin - run.begin..]))
    }

    fn check(&self) -> Result<(), GrammarError> {
        let error = self.matcher.get_error();
        error.map_or(Ok(()), |error| Err(broken(error)))
    }
}

impl GrammarMatcher for Following {
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), GrammarError> {
        mask.reset(mask.vocab_size());
        if let Some(token) = self.rest_of_run()?.first() {
            mask.allow(*token);
            return Ok(());
        }
        if self.is_complete() {
            for end in &*self.eos {
                mask.allow(*end);
            }
            return Ok(());
        }
        let allowed = self.matcher.compute_mask().map_err(broken)?;
        mask.fill_from_u32(allowed.as_slice());
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        if self.eos.contains(&token) {
            return Err(broken("an end token is no part of a text"));
        }
        // Asked now or never: whoever asks in the middle of a run shall find this one.
        let forced = self.rest_of_run()?.first().copied();
        if forced.is_some_and(|forced| forced != token) {
            let wanted = forced.unwrap_or_default();
            return Err(broken(format!("token {token}, where {wanted} must follow")));
        }
        self.matcher.consume_token(token).map_err(broken)?;
        self.accepted += 1;
        Ok(())
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarError> {
        if tokens > self.accepted {
            return Err(broken(format!(
                "{tokens} tokens to take back of {}",
                self.accepted
            )));
        }
        self.matcher.rollback(tokens).map_err(broken)?;
        self.accepted -= tokens;
        while self
            .runs
            .last()
            .is_some_and(|run| run.begin > self.accepted)
        {
            self.runs.pop();
        }
        self.free = self.free.filter(|free| *free <= self.accepted);
        Ok(())
    }

    fn can_roll_back(&self) -> bool {
        self.reversible
    }

    fn valid_prefix(&mut self, tokens: &[TokenId]) -> Result<usize, GrammarError> {
        if self.matcher.is_stopped() {
            self.check()?;
            return Ok(0);
        }
        let ends = |token: &TokenId| self.eos.contains(token);
        let len = tokens.iter().position(ends).unwrap_or(tokens.len());
        self.matcher.validate_tokens(&tokens[..len]).map_err(broken)
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) -> Result<(), GrammarError> {
        out.extend_from_slice(self.rest_of_run()?);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.get_error().is_none()
    }
}
