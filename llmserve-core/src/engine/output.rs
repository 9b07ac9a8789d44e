//! From a picked token to events: stop conditions and text.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::constrain::follow;
use super::core::Core;
use super::request::Sequence;
use crate::contract::clock::Time;
use crate::contract::scheduler::End;
use crate::error::{Error, panic_message};
use crate::event::{Event, FinishReason, Finished, TokenEvent, TokenLogprobs};
use crate::ids::{SequenceId, TokenId};

/// What a token added to its choice.
struct Advance {
    text: String,
    /// Why the choice ends with this token, and the text that was held back.
    end: Option<(FinishReason, String)>,
}

impl Core {
    /// Appends a token to its sequence and says so. True if the sequence ended with it.
    ///
    /// # Errors
    /// What ends the request: a tokenizer that fails or panics.
    pub(super) fn emit(
        &mut self,
        id: SequenceId,
        sequence: &mut Sequence,
        (token, logprobs): (TokenId, Option<TokenLogprobs>),
        now: Time,
    ) -> Result<bool, Error> {
        let eos = &self.shared.info.eos;
        let complete = follow(sequence, token, eos)?;
        let advance = guarded_advance(sequence, token, eos, complete)?;
        self.stats.generation_tokens += 1;
        match sequence.first_token {
            None => {
                sequence.first_token = Some(now);
                self.instruments.first_token(&sequence.spec, now);
            }
            Some(_) => self
                .instruments
                .next_token(now.saturating_sub(sequence.last_token)),
        }
        sequence.last_token = now;
        let Some(live) = self.requests.get_mut(&sequence.request) else {
            return Ok(true);
        };
        self.buffers.touched.push(sequence.request);
        let index = sequence.choice;
        let Advance { text, end } = advance;
        live.outbox.push(Event::Token(TokenEvent {
            index,
            id: token,
            text,
            logprobs,
        }));
        let Some((reason, text)) = end else {
            return Ok(false);
        };

        let generated = sequence.generated();
        self.buffers.outcome.ended.push((id, End::Done));
        live.sequences.retain(|other| *other != id);
        live.remaining -= 1;
        let usage = live.usage(generated);
        let admitted = live.admitted.unwrap_or(now);
        let key = sequence.request;
        let last = live.remaining == 0;
        if let Some(live) = self.requests.get(&key) {
            let timings = self.timings(live, sequence.first_token, now);
            tracing::debug!(
                parent: &live.spec.span,
                choice = index,
                tokens = generated,
                reason = reason.as_str(),
                "finished"
            );
            self.instruments
                .choice_finished(&usage, &timings, now.saturating_sub(admitted));
            self.instruments.finished(&reason);
            let finished = Finished {
                index,
                reason,
                text,
                usage,
                timings,
            };
            if let Some(live) = self.requests.get_mut(&key) {
                live.outbox.push(Event::Finished(finished));
            }
        }
        if last && let Some(live) = self.remove(key) {
            self.stats.finished_requests += 1;
            self.buffers.done.push((live, None));
        }
        Ok(true)
    }
}

/// Brings a new sequence to where an earlier run of its request was cut off.
///
/// # Errors
/// What refuses the request: an answer that had ended, or that its grammar or the tokenizer do not
/// accept.
pub(super) fn resume(sequence: &mut Sequence, eos: &[TokenId]) -> Result<(), Error> {
    let spec = sequence.spec.clone();
    for (at, &token) in spec.resume.iter().enumerate() {
        let complete = follow(sequence, token, eos)?;
        let advance = guarded_advance(sequence, token, eos, complete)?;
        if let Some((reason, _)) = advance.end {
            let reason = reason.as_str();
            return Err(Error::invalid_request(
                "resume",
                format!("the answer had ended ({reason}) with token {at}: nothing can follow"),
            ));
        }
    }
    Ok(())
}

/// [`advance`], with a panic of the tokenizer's as an error.
fn guarded_advance(
    sequence: &mut Sequence,
    token: TokenId,
    eos: &[TokenId],
    complete: bool,
) -> Result<Advance, Error> {
    catch_unwind(AssertUnwindSafe(|| advance(sequence, token, eos, complete))).unwrap_or_else(
        |panic| {
            Err(Error::Panicked {
                part: "tokenizer",
                message: panic_message(&*panic),
            })
        },
    )
}

/// vLLM's order: nothing stops before `min_tokens`; then end token, stop token, stop string,
/// length. Before the length comes a grammar that is `complete`: nothing could follow, however few
/// tokens there are.
fn advance(
    sequence: &mut Sequence,
    token: TokenId,
    eos: &[TokenId],
    complete: bool,
) -> Result<Advance, Error> {
    let spec = sequence.spec.clone();
    sequence.tokens.push(token);
    let may_stop = sequence.generated() >= spec.min_tokens;
    let mut reason = None;
    if may_stop {
        if !spec.ignore_eos && eos.contains(&token) {
            reason = Some(FinishReason::Eos(token));
        } else if spec.stop_tokens.contains(&token) {
            reason = Some(FinishReason::StopToken(token));
        }
    }
    let mut text = String::new();
    if reason.is_none()
        && let Some(side) = &mut sequence.text
    {
        // An end token's own text is not part of the answer.
        let piece = side.decoder.push(token)?;
        if may_stop {
            let scan = side.stops.push(&piece);
            text = scan.emit;
            reason = scan
                .matched
                .map(|i| FinishReason::StopString(spec.stop[i].clone()));
        } else {
            text = side.stops.pass(&piece);
        }
    }
    if let Some(reason @ FinishReason::StopString(_)) = reason {
        return Ok(Advance {
            text,
            end: Some((reason, String::new())),
        });
    }
    if reason.is_none() && complete {
        reason = Some(FinishReason::Complete);
    }
    if reason.is_none() && sequence.tokens.len() >= spec.max_total {
        reason = Some(FinishReason::Length);
    }
    let end = reason.map(|reason| {
        let held = sequence
            .text
            .as_mut()
            .map_or_else(String::new, |side| side.flush());
        (reason, held)
    });
    Ok(Advance { text, end })
}
