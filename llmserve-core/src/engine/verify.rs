//! A row that samples: which of its drafts are accepted, and the token after them.
//!
//! The drafts' logits are there, so each position is an ordinary pick, after the tokens before it
//! have become the sequence's own: penalties, bias, processors, logprobs, stop conditions and text
//! are those of a sequence that came here one token a step. The first pick that is not the draft
//! ends the row, for what follows was computed after a token that never came.

use super::core::Core;
use super::request::{Draft, Sequence};
use super::step::{Broken, read};
use crate::contract::clock::Time;
use crate::contract::model::Logits;
use crate::contract::proposer::{Verification, Verified};
use crate::contract::scheduler::{PlannedRow, RowOutcome};
use crate::error::Error;
use crate::ids::TokenId;
use crate::sampling::LogitsContext;

impl Core {
    /// Picks at the positions of a row with drafts, the first of which has logits row `first`.
    pub(super) fn verify_row(
        &mut self,
        row: &PlannedRow,
        sequence: &mut Sequence,
        logits: &mut dyn Logits,
        first: usize,
        now: Time,
    ) -> Result<(), Broken> {
        let mut draft = std::mem::take(&mut sequence.draft);
        let first_token = self.buffers.outcome.tokens.len();
        let done = self.accept(row, sequence, &draft, logits, first, now);
        let new_tokens = self.buffers.outcome.tokens.len() - first_token;
        let outcome = self.buffers.outcome.rows.len();
        // A token that came computes the one before it.
        self.buffers.outcome.rows.push(RowOutcome {
            id: row.id,
            computed: row.start + new_tokens.max(1),
            first_token,
            new_tokens,
        });
        if let Some(speculator) = &mut self.speculator {
            let tokens = &self.buffers.outcome.tokens[first_token..];
            let accepted = tokens.iter().zip(&draft.tokens[..row.drafts]);
            speculator.verified.push(Verified {
                sequence: row.id,
                drafted: row.drafts,
                accepted: accepted.take_while(|(token, draft)| token == draft).count(),
            });
        }
        draft.clear();
        sequence.draft = draft;
        if !done? {
            let jumped = self.jump(row.id, sequence, now);
            self.buffers.outcome.rows[outcome].new_tokens =
                self.buffers.outcome.tokens.len() - first_token;
            jumped?;
        }
        Ok(())
    }

    /// True if the sequence ended.
    fn accept(
        &mut self,
        row: &PlannedRow,
        sequence: &mut Sequence,
        draft: &Draft,
        logits: &mut dyn Logits,
        first: usize,
        now: Time,
    ) -> Result<bool, Broken> {
        for at in 0..=row.drafts {
            let survey = &mut self.buffers.survey;
            let last = read(logits, first + at, self.shared.info.vocab_size, survey)?;
            let mut picked = self.pick(sequence, last)?;
            let guess = draft.tokens.get(at).copied().filter(|_| at < row.drafts);
            if let Some(guess) = guess {
                let token = self.judge(sequence, last, guess, draft, at, picked.0)?;
                if token != picked.0 {
                    picked = (token, self.logprobs(sequence, last, token)?);
                }
            }
            self.buffers.outcome.tokens.push(picked.0);
            let agreed = guess == Some(picked.0);
            let ended = self.emit(row.id, sequence, picked, now)?;
            if ended || !agreed {
                return Ok(ended);
            }
        }
        Ok(false)
    }

    /// The token at a drafted position, where our own pick there is `picked`.
    fn judge(
        &mut self,
        sequence: &mut Sequence,
        row: &[f32],
        guess: TokenId,
        draft: &Draft,
        at: usize,
        picked: TokenId,
    ) -> Result<TokenId, Error> {
        let speculator = self.speculator.as_mut();
        let Some(speculator) = speculator.filter(|s| s.verification == Verification::Rejection)
        else {
            return Ok(picked);
        };
        let spec = &sequence.spec;
        let info = &self.shared.info;
        let allowed = match &mut sequence.constrained {
            None => None,
            Some(grammar) => {
                Some(grammar.allowed(&[], &info.eos, spec.ignore_eos, info.vocab_size)?)
            }
        };
        let context = LogitsContext::new(&sequence.tokens, spec.prompt.len(), sequence.choice)
            .allowed(allowed);
        let buffers = &mut self.buffers;
        // What is forbidden and allowed here is what the pick just before was told.
        sequence.sampler.distribution_surveyed(
            &context,
            &spec.processors,
            row,
            &buffers.survey,
            &buffers.forbidden,
            &mut buffers.scratch,
            &mut speculator.target,
        )?;
        let position = sequence.tokens.len();
        let q = draft.distributions.get(at).filter(|q| !q.is_empty());
        Ok(sequence
            .sampler
            .verify(position, guess, &speculator.target, q))
    }
}
