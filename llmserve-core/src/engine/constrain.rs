//! A choice that follows a grammar: what may be picked, and what need not be.

use std::sync::Arc;

use super::core::Core;
use super::grammars::guarded;
use super::request::{Sequence, Spec};
use crate::contract::clock::Time;
use crate::contract::grammar::{Grammar, GrammarError, GrammarMatcher};
use crate::contract::scheduler::PlannedRow;
use crate::error::Error;
use crate::ids::{SequenceId, TokenId};
use crate::sampling::TokenMask;

/// A choice's grammar, and the masks of the step in hand.
pub(super) struct Constrained {
    grammar: Arc<dyn Grammar>,
    /// None until it is needed: a request that waits has none.
    matcher: Option<Box<dyn GrammarMatcher>>,
    /// Made together with the own one, for the other choices of the request.
    others: Vec<Box<dyn GrammarMatcher>>,
    /// How many of those are to be made.
    choices: usize,
    /// The tokens that were followed.
    tokens: Vec<TokenId>,
    drafting: Drafting,
    /// The first [`ready`](Self::ready) are those of the next tokens: after the tokens known, and
    /// after each draft of the row as long as they are allowed.
    masks: Vec<TokenMask>,
    ready: usize,
    /// The mask that the next pick uses.
    at: usize,
    /// What went wrong where nobody could be told. It does not go on after that.
    failed: Option<Error>,
}

/// What drafts did to a matcher.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drafting {
    /// Nothing: it was told the answer's own tokens alone.
    Untried,
    /// It was told drafts: a limit that it exceeds may be one that the answer alone is within.
    Tried,
    /// They were too much for it. Another that never hears of any has taken its place.
    TooMuch,
}

impl Constrained {
    /// A choice at the beginning, whose request has `others` more.
    pub(super) fn new(grammar: Arc<dyn Grammar>, others: usize) -> Self {
        Self {
            grammar,
            matcher: None,
            others: Vec::new(),
            choices: others,
            tokens: Vec::new(),
            drafting: Drafting::Untried,
            masks: Vec::new(),
            ready: 0,
            at: 0,
            failed: None,
        }
    }

    /// Computes the masks of a step. A failure is kept for [`allowed`](Self::allowed).
    pub(super) fn compute(&mut self, drafts: &[TokenId], vocab_size: usize) {
        if self.failed.is_some() {
            return;
        }
        (self.ready, self.at) = (0, 0);
        let others = std::mem::take(&mut self.choices);
        for _ in 0..others {
            match guarded(|| self.grammar.matcher()).and_then(|made| Ok(made?)) {
                Ok(matcher) => self.others.push(matcher),
                Err(error) => self.failed = Some(error),
            }
        }
        let mut own = std::mem::take(&mut self.masks);
        if own.is_empty() {
            own.push(TokenMask::none(vocab_size));
        }
        let computed = self.attempt(|matcher| {
            own[0].reset(vocab_size);
            matcher.mask(&mut own[0])
        });
        self.masks = own;
        if computed.is_err() {
            return;
        }
        self.ready = 1;
        if self.takes_drafts() && !drafts.is_empty() {
            self.drafting = Drafting::Tried;
            if !matches!(guarded(|| self.walk(drafts, vocab_size)), Ok(Ok(()))) {
                self.start_over();
            }
        }
    }

    /// The masks after drafts. What fails here is no reason to end the answer.
    fn walk(&mut self, drafts: &[TokenId], vocab_size: usize) -> Result<(), GrammarError> {
        let Some(matcher) = &mut self.matcher else {
            return Ok(());
        };
        let mut accepted = 0;
        for draft in drafts {
            // A draft that may not follow is never picked, so nothing is picked behind it; and
            // nothing follows the end.
            if !self.masks[accepted].allows(*draft) {
                break;
            }
            if matcher.accept(*draft).is_err() {
                // An end token.
                break;
            }
            accepted += 1;
            if matcher.is_complete() {
                break;
            }
            if self.masks.len() == accepted {
                self.masks.push(TokenMask::none(vocab_size));
            }
            let mask = &mut self.masks[accepted];
            mask.reset(vocab_size);
            matcher.mask(mask)?;
            self.ready = accepted + 1;
        }
        matcher.rollback(accepted)
    }

    /// Puts a matcher that never heard of a draft in the place of one that had too many.
    fn start_over(&mut self) {
        self.drafting = Drafting::TooMuch;
        self.matcher = None;
        if let Err(error) = self.matcher() {
            self.failed = Some(error);
        }
    }

    /// The matcher, made where there is none yet.
    fn matcher(&mut self) -> Result<&mut dyn GrammarMatcher, Error> {
        let matcher = match self.matcher.take() {
            Some(matcher) => matcher,
            None => guarded(|| {
                let mut matcher = self.grammar.matcher()?;
                for token in &self.tokens {
                    matcher.accept(*token)?;
                }
                Ok::<_, GrammarError>(matcher)
            })??,
        };
        Ok(&mut **self.matcher.insert(matcher))
    }

    /// Asks the matcher. One that heard of drafts and fails is replaced, and the other asked
    /// again; what fails then is kept, and the answer does not go on.
    fn attempt<T>(
        &mut self,
        mut ask: impl FnMut(&mut dyn GrammarMatcher) -> Result<T, GrammarError>,
    ) -> Result<T, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        loop {
            let asked = self
                .matcher()
                .and_then(|matcher| Ok(guarded(|| ask(matcher))??));
            match asked {
                Err(_) if self.drafting == Drafting::Tried => self.start_over(),
                Err(error) => {
                    self.failed = Some(error.clone());
                    return Err(error);
                }
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// What may be picked now, without `forbidden`, which are end and stop tokens, and without end
    /// tokens at all if they are `ignored`: unless nothing else is left, for then the answer is as
    /// long as it can be.
    pub(super) fn allowed(
        &mut self,
        forbidden: &[TokenId],
        eos: &[TokenId],
        ignored: bool,
        vocab_size: usize,
    ) -> Result<&TokenMask, Error> {
        if self.failed.is_none() && self.at >= self.ready {
            self.compute(&[], vocab_size);
        }
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mask = &mut self.masks[self.at];
        let ends = eos.iter().any(|end| mask.allows(*end));
        for token in forbidden.iter().chain(eos.iter().filter(|_| ignored)) {
            mask.forbid(*token);
        }
        if ends && mask.is_empty() {
            for end in eos {
                mask.allow(*end);
            }
        }
        Ok(mask)
    }

    /// Whether drafts can be walked and taken back.
    pub(super) fn takes_drafts(&self) -> bool {
        let matcher = self.matcher.as_deref();
        self.drafting != Drafting::TooMuch && matcher.is_some_and(|m| m.can_roll_back())
    }

    /// How many of some drafts may follow: none, and never any more, if it is too much to say.
    pub(super) fn valid_prefix(&mut self, drafts: &[TokenId]) -> usize {
        if self.failed.is_some() || !self.takes_drafts() {
            return 0;
        }
        let Some(matcher) = &mut self.matcher else {
            return 0;
        };
        self.drafting = Drafting::Tried;
        match guarded(|| matcher.valid_prefix(drafts)) {
            Ok(Ok(valid)) => valid.min(drafts.len()),
            Ok(Err(_)) | Err(_) => {
                self.start_over();
                0
            }
        }
    }

    /// Takes over the masks of another choice that stands at the same place, and the matcher that
    /// was made for one like this.
    pub(super) fn adopt(&mut self, other: &mut Self) {
        self.matcher = other.others.pop();
        self.masks.clone_from(&other.masks);
        (self.ready, self.at) = (other.ready, other.at);
    }

    /// Follows a token that was picked or forced. True if nothing can follow it.
    fn accept(&mut self, token: TokenId) -> Result<bool, Error> {
        self.at += 1;
        let complete = self.attempt(|matcher| {
            matcher.accept(token)?;
            Ok(matcher.is_complete())
        })?;
        self.tokens.push(token);
        Ok(complete)
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) -> Result<(), Error> {
        self.attempt(|matcher| {
            out.clear();
            matcher.forced(out)
        })
    }
}

/// Lets a sequence's grammar follow a token. True if nothing can follow it.
pub(super) fn follow(
    sequence: &mut Sequence,
    token: TokenId,
    eos: &[TokenId],
) -> Result<bool, Error> {
    match &mut sequence.constrained {
        None => Ok(false),
        // A grammar lets an end token stand at the end alone.
        Some(_) if eos.contains(&token) => Ok(true),
        Some(constrained) => constrained.accept(token),
    }
}

/// Whether a request's forced runs are appended without asking the model.
///
/// Whoever wants logprobs, or changes logits so that even a single token might be ruled out, has
/// every token picked.
fn jumps(spec: &Spec) -> bool {
    let bias = &spec.sampling.logit_bias;
    let ruled_out = bias.values().any(|bias| *bias == f32::NEG_INFINITY);
    spec.logprobs.is_none() && spec.processors.is_empty() && !ruled_out
}

impl Core {
    /// The next token of an answer that was cut off inside a forced run: the run goes on, where a
    /// pick might spell the same text with other tokens.
    ///
    /// # Errors
    /// What ends the request.
    pub(super) fn forced_on_resume(
        &mut self,
        sequence: &mut Sequence,
    ) -> Result<Option<TokenId>, Error> {
        let spec = sequence.spec.clone();
        let resumed = spec.resume.len();
        if resumed == 0 || sequence.generated() > resumed || !jumps(&spec) {
            return Ok(None);
        }
        let Some(constrained) = &mut sequence.constrained else {
            return Ok(None);
        };
        let mut forced = std::mem::take(&mut self.buffers.forced);
        forced.clear();
        constrained.forced(&mut forced)?;
        let early = sequence.generated() < spec.min_tokens;
        let next = forced.first().copied();
        self.buffers.forced = forced;
        Ok(next.filter(|token| !(early && spec.stop_tokens.contains(token))))
    }

    /// Lends the grammars of a step's rows to the threads that compute masks.
    pub(super) fn send_masks(&mut self, rows: &[PlannedRow]) {
        let Some(masks) = &mut self.masks else {
            return;
        };
        for row in rows.iter().filter(|row| row.samples) {
            let Some(sequence) = self.sequences.get_mut(row.id) else {
                continue;
            };
            if let Some(constrained) = sequence.constrained.take() {
                let drafts = sequence.draft.tokens.get(..row.drafts);
                masks.send(row.id, constrained, drafts.unwrap_or(&[]));
            }
        }
    }

    /// Has them back.
    pub(super) fn collect_masks(&mut self) {
        let Some(masks) = &mut self.masks else {
            return;
        };
        let began = self.clock.now();
        let mut any = false;
        while let Some(job) = masks.next() {
            any = true;
            self.stats.masks += 1;
            self.mask_time += job.took;
            let id = job.id;
            let (constrained, drafts) = job.into_parts();
            masks.recycle(drafts);
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.constrained = Some(constrained);
            }
        }
        if any {
            self.mask_wait += self.clock.now().saturating_sub(began);
            self.stats.mask_seconds = self.mask_time.as_secs_f64();
            self.stats.mask_wait_seconds = self.mask_wait.as_secs_f64();
        }
    }

    /// Appends what must follow without asking the model. Its keys and values come with the
    /// sequence's next row. True if the sequence ended with it.
    ///
    /// # Errors
    /// What ends the request.
    pub(super) fn jump(
        &mut self,
        id: SequenceId,
        sequence: &mut Sequence,
        now: Time,
    ) -> Result<bool, Error> {
        let spec = sequence.spec.clone();
        let Some(constrained) = sequence.constrained.as_mut().filter(|_| jumps(&spec)) else {
            return Ok(false);
        };
        let mut forced = std::mem::take(&mut self.buffers.forced);
        constrained.forced(&mut forced)?;
        let mut ended = false;
        for &token in &forced {
            // What may not be picked yet is not forced either: the pick that follows says so.
            let early = sequence.generated() < spec.min_tokens;
            if early && spec.stop_tokens.contains(&token) {
                break;
            }
            self.buffers.outcome.tokens.push(token);
            self.stats.forced_tokens += 1;
            sequence.jumped = self.steps;
            ended = self.emit(id, sequence, (token, None), now)?;
            if ended {
                break;
            }
        }
        self.buffers.forced = forced;
        Ok(ended)
    }
}
