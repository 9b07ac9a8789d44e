//! Who waits, in order: a line for each tenant, and whose turn it is.
//!
//! Without fairness there is one line. With it, lines take turns by deficit round robin (Shreedhar
//! and Varghese, SIGCOMM 1995); see [`Fairness`] for the rules a host sees.
//!
//! A line is in the ring exactly while somebody waits in it or it has debts. So a line outside it
//! has a credit of 0, and a tenant of whom nothing is known any more is forgotten.

mod line;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use line::Line;
pub(super) use line::Place;

use crate::fairness::Fairness;

/// A line's number, stable while sequences belong to it.
pub(super) type LineId = usize;

/// The line of those without a tenant, and of all where fairness is off.
const COMMON: LineId = 0;

#[derive(Debug)]
pub(super) struct Queue {
    fairness: Option<Fairness>,
    patience: Option<u64>,
    lines: Vec<Line>,
    names: HashMap<Arc<str>, LineId>,
    vacant: Vec<LineId>,
    /// Whose turn it is, then whose turn comes next.
    ring: VecDeque<LineId>,
    len: usize,
    tokens: usize,
    /// Those among them that ran before.
    resumed: usize,
    /// Lines in which somebody waits.
    occupied: usize,
    /// Seats there are for all.
    seats: usize,
    /// The weights of all lines that have members, as what a turn brings them.
    weight: i128,
    /// Whether weights have changed since claims were counted.
    stale: bool,
    /// Lines with a [claim](Line::claims).
    claims: usize,
    /// Lines with more than their share.
    exceeding: usize,
    /// The last step that was asked for the next one.
    step: u64,
    /// Whether nobody with a claim can be served in that step.
    exhausted: bool,
    /// The line whose head holds up the others until it has its blocks.
    holding: Option<LineId>,
    /// Sequences that came to run, ever.
    admissions: u64,
}

impl Queue {
    pub(super) fn new(fairness: Option<Fairness>, patience: Option<usize>, seats: usize) -> Self {
        let turn = fairness.as_ref().map_or(1, |fairness| fairness.turn(None));
        Self {
            fairness,
            patience: patience.map(|patience| patience as u64),
            lines: vec![Line::new(None, turn)],
            names: HashMap::new(),
            vacant: Vec::new(),
            ring: VecDeque::new(),
            len: 0,
            tokens: 0,
            resumed: 0,
            occupied: 0,
            seats,
            weight: 0,
            stale: false,
            claims: 0,
            exceeding: 0,
            step: 0,
            exhausted: false,
            holding: None,
            admissions: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Tokens of all that wait.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// How many of those that wait have run before.
    pub(super) fn resumed(&self) -> usize {
        self.resumed
    }

    // ---- belonging to a line ----------------------------------------------------------------

    /// The line a tenant's new sequence belongs to, until it [leaves](Self::leave).
    pub(super) fn join(&mut self, tenant: Option<&Arc<str>>) -> LineId {
        let line = match (tenant, &self.fairness) {
            (Some(tenant), Some(fairness)) => match self.names.get(tenant) {
                Some(line) => *line,
                None => {
                    let line = Line::new(Some(tenant.clone()), fairness.turn(Some(tenant)));
                    let at = self.vacant.pop().unwrap_or(self.lines.len());
                    if at == self.lines.len() {
                        self.lines.push(line);
                    } else {
                        self.lines[at] = line;
                    }
                    self.names.insert(tenant.clone(), at);
                    at
                }
            },
            _ => COMMON,
        };
        self.join_line(line);
        line
    }

    /// One more sequence of a line: a choice of one that is in it.
    pub(super) fn join_line(&mut self, line: LineId) {
        self.lines[line].members += 1;
        if self.lines[line].members == 1 {
            self.reweigh(self.lines[line].turn);
        }
    }

    pub(super) fn leave(&mut self, line: LineId) {
        self.lines[line].members -= 1;
        if self.lines[line].members == 0 {
            self.reweigh(-self.lines[line].turn);
        }
        self.forget(line);
    }

    fn forget(&mut self, at: LineId) {
        let line = &self.lines[at];
        if at != COMMON && line.members == 0 && !line.in_ring {
            if let Some(name) = &line.tenant {
                self.names.remove(name);
            }
            self.vacant.push(at);
        }
    }

    // ---- waiting ----------------------------------------------------------------------------

    /// `tokens` are what it adds to [`tokens`](Self::tokens), to be told again when it goes.
    pub(super) fn insert(&mut self, at: LineId, place: Place, tokens: usize) {
        if self.len == 0 {
            self.forgive();
        }
        let line = &mut self.lines[at];
        self.occupied += usize::from(line.is_empty());
        line.insert(place, self.patience);
        line.tokens += tokens;
        self.len += 1;
        self.tokens += tokens;
        self.resumed += usize::from(!place.newcomer);
        self.enter_ring(at);
        self.note(at);
    }

    pub(super) fn remove(&mut self, at: LineId, place: &Place, tokens: usize) {
        let line = &mut self.lines[at];
        if !line.remove(place) {
            return;
        }
        line.tokens -= tokens;
        self.occupied -= usize::from(line.is_empty());
        self.len -= 1;
        self.tokens -= tokens;
        self.resumed -= usize::from(!place.newcomer);
        if self.lines[at].is_empty() {
            self.lacks_nothing(at);
        }
        self.note(at);
    }

    /// A waiting one has another rank.
    pub(super) fn rerank(&mut self, at: LineId, from: &Place, to: Place) {
        self.lines[at].rerank(from, to);
    }

    /// All that wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LineId, Place)> + '_ {
        let lines = self.lines.iter().enumerate();
        lines.flat_map(|(at, line)| line.iter().map(move |place| (at, *place)))
    }

    // ---- whose turn it is -------------------------------------------------------------------

    /// Who is next, those aside that were [passed](Self::pass) in this step.
    pub(super) fn next(&mut self, step: u64) -> Option<(LineId, Place)> {
        if self.len == 0 {
            return None;
        }
        if self.fairness.is_none() {
            return Some((COMMON, self.lines[COMMON].next(step)?));
        }
        if self.step != step {
            self.step = step;
            self.exhausted = false;
            self.weigh();
        }
        if let Some(at) = self.holding.filter(|at| self.is_eligible(*at))
            && let Some(place) = self.lines[at].next(step)
        {
            return Some((at, place));
        }
        let mut visited = 0;
        loop {
            let at = *self.ring.front()?;
            let line = &mut self.lines[at];
            if !line.credited {
                line.credited = true;
                // What a line could not use while all of it was passed does not pile up.
                line.credit = line.credit.saturating_add(line.turn).min(line.turn);
            }
            if line.credit > 0
                && self.is_eligible(at)
                && let Some(place) = self.lines[at].next(step)
            {
                return Some((at, place));
            }
            self.end_turn();
            visited += 1;
            if visited > self.ring.len() {
                // A whole round, and nobody was served: all have debts, or nobody is left.
                match self.skip_rounds(step) {
                    None if self.exhausted || self.claims == 0 => return None,
                    None => self.exhausted = true,
                    Some(()) => {}
                }
                visited = 0;
            }
        }
    }

    /// Whether a line is served: one that has its share of the seats is not while another with a
    /// claim could be.
    fn is_eligible(&self, at: LineId) -> bool {
        self.claims == 0 || self.exhausted || self.lines[at].claims
    }

    /// One cannot be admitted in this step, for a reason of its own.
    pub(super) fn pass(&mut self, at: LineId, place: Place, step: u64) {
        self.lines[at].pass(place, step);
    }

    /// A newcomer was admitted. Service is free while nobody else waits.
    pub(super) fn admitted(&mut self, at: LineId, computed: usize, cached: usize) {
        let Some(fairness) = &self.fairness else {
            return;
        };
        let cost = fairness.prompt(computed, cached);
        self.charge(at, cost);
    }

    /// Tokens were generated.
    pub(super) fn generated(&mut self, at: LineId, tokens: usize) {
        let Some(fairness) = &self.fairness else {
            return;
        };
        if self.occupied > 0 {
            let cost = fairness.generated(tokens);
            self.charge(at, cost);
        }
    }

    fn charge(&mut self, at: LineId, cost: i64) {
        let line = &mut self.lines[at];
        let others = self.occupied - usize::from(!line.is_empty());
        if others == 0 {
            return;
        }
        line.credit = line.credit.saturating_sub(cost);
        if line.credit < 0 {
            self.enter_ring(at);
        }
    }

    fn enter_ring(&mut self, at: LineId) {
        if !std::mem::replace(&mut self.lines[at].in_ring, true) {
            self.ring.push_back(at);
        }
    }

    fn end_turn(&mut self) {
        let Some(at) = self.ring.pop_front() else {
            return;
        };
        let line = &mut self.lines[at];
        line.credited = false;
        if line.is_empty() && line.credit >= 0 {
            // Credit is not taken home.
            line.credit = 0;
            line.in_ring = false;
            self.forget(at);
        } else {
            line.credit = line.credit.min(line.turn);
            self.ring.push_back(at);
        }
    }

    /// As many rounds at once as it takes until somebody can be served; none if nobody is left.
    fn skip_rounds(&mut self, step: u64) -> Option<()> {
        let mut rounds = None;
        for at in &self.ring {
            if !self.is_eligible(*at) {
                continue;
            }
            let line = &mut self.lines[*at];
            if line.next(step).is_some() {
                let needed = (1 - line.credit).max(0) as u64;
                let needed = needed.div_ceil(line.turn as u64);
                rounds = Some(rounds.map_or(needed, |least: u64| least.min(needed)));
            }
        }
        // The visit itself brings one.
        let rounds = rounds?.saturating_sub(1).min(i64::MAX as u64) as i64;
        for at in &self.ring {
            let line = &mut self.lines[*at];
            let credit = line.credit.saturating_add(line.turn.saturating_mul(rounds));
            line.credit = credit.min(line.turn);
        }
        Some(())
    }

    /// Nobody waits: debts are not remembered beyond that.
    fn forgive(&mut self) {
        while let Some(at) = self.ring.pop_front() {
            let line = &mut self.lines[at];
            line.credit = 0;
            line.credited = false;
            line.in_ring = false;
            self.forget(at);
        }
    }
}
