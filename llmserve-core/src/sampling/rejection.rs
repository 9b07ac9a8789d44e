//! Classical rejection sampling of drafts: the target's distribution exactly, whatever the
//! draft's was (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding",
//! ICML 2023).
//!
//! A draft d, drawn from q, is accepted with probability min(1, p(d)/q(d)). If it is not, the
//! token is drawn from max(p − q, 0), renormalised. Added up, each token comes with probability p.
//!
//! The noise is a pure function of (seed, choice, position) as everywhere, of a stream of its own:
//! the draft was picked with the usual one, and what decides about it must not depend on that.

use super::math::ln;
use super::noise::Noise;
use super::sampler::Sampler;
use crate::contract::proposer::Distribution;
use crate::ids::TokenId;

/// Tells the streams of acceptance and of replacement from that of picks.
const ACCEPT: u64 = 0xa5b3_5705_8aab_1e3d;
const REPLACE: u64 = 0x6c62_272e_07bb_0142;

impl Sampler {
    /// The token at `position`, given that `draft` was guessed: `draft` itself if it is accepted.
    /// `p` is the target's [distribution](Self::distribution_surveyed) there, `q` what the draft
    /// was drawn from; none for one that was certain.
    pub fn verify(
        &self,
        position: usize,
        draft: TokenId,
        p: &Distribution,
        q: Option<&Distribution>,
    ) -> TokenId {
        let uniform = Noise::new(self.seed ^ ACCEPT, self.choice, position).bits(0) as f64
            / 18_446_744_073_709_551_616.0;
        if accepts(mass(p, draft), q.map_or(1.0, |q| mass(q, draft)), uniform) {
            return draft;
        }
        let noise = Noise::new(self.seed ^ REPLACE, self.choice, position);
        let certain = [(draft, 1.0)];
        let q = q.map_or(&certain[..], Vec::as_slice);
        // A draft that cannot have been drawn from q says nothing: p itself is left.
        let q = if q.iter().any(|&(token, mass)| token == draft && mass > 0.0) {
            q
        } else {
            &[]
        };
        replace(p, q, noise).unwrap_or(draft)
    }
}

/// Strictly more than the uniform number, which may be 0: what the target rules out never comes.
fn accepts(p: f64, q: f64, uniform: f64) -> bool {
    q > 0.0 && p / q > uniform
}

fn mass(distribution: &Distribution, token: TokenId) -> f64 {
    distribution
        .iter()
        .find(|(id, _)| *id == token)
        .map_or(0.0, |(_, mass)| *mass)
}

/// A token from max(p − q, 0) by the Gumbel-max trick. Where rounding left nothing of it, one
/// from p; none if p is empty.
fn replace(p: &Distribution, q: &[(TokenId, f64)], noise: Noise) -> Option<TokenId> {
    let mut q = q.to_vec();
    q.sort_unstable_by_key(|(token, _)| *token);
    let taken = |token| {
        q.binary_search_by_key(&token, |(id, _)| *id)
            .map_or(0.0, |at| q[at].1)
    };
    let race = |left: &dyn Fn(TokenId, f64) -> f64| {
        let mut best: Option<(f64, TokenId)> = None;
        for &(token, mass) in p {
            let left = left(token, mass);
            if left <= 0.0 {
                continue;
            }
            let score = ln(left) + noise.gumbel(token);
            let better =
                best.is_none_or(|(most, id)| score > most || (score == most && token < id));
            if better {
                best = Some((score, token));
            }
        }
        best.map(|(_, token)| token)
    };
    race(&|token, mass| mass - taken(token)).or_else(|| race(&|_, mass| mass))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::Sampling;

    /// Behaviour: strictly more, for the uniform number may be 0.
    #[test]
    fn what_the_target_rules_out_is_never_accepted() {
        assert!(!accepts(0.0, 0.5, 0.0));
        assert!(accepts(0.1, 0.5, 0.0));
        assert!(accepts(0.5, 0.25, 0.999));
        assert!(!accepts(0.25, 0.5, 0.5));
        assert!(!accepts(0.5, 0.0, 0.0));
    }

    fn sampler(seed: u64) -> Sampler {
        let sampling = Sampling {
            temperature: 1.0,
            ..Sampling::default()
        };
        Sampler::new(&sampling, 0, seed)
    }

    /// A token of `q` as a draft model draws it.
    fn draw(q: &Distribution, seed: u64, position: usize) -> TokenId {
        replace(q, &[], Noise::new(seed, 0, position)).unwrap()
    }

    /// Total variation between `p` and what `draws` positions give.
    fn distance(p: &Distribution, q: &Distribution, certain: bool, draws: usize) -> f64 {
        let sampler = sampler(11);
        let mut counts = vec![0usize; p.len()];
        for position in 0..draws {
            let draft = draw(q, 11, position);
            let token = sampler.verify(position, draft, p, (!certain).then_some(q));
            counts[token as usize] += 1;
        }
        p.iter()
            .map(|&(token, mass)| (counts[token as usize] as f64 / draws as f64 - mass).abs())
            .sum::<f64>()
            / 2.0
    }

    fn distributions() -> (Distribution, Distribution) {
        let normal = |weights: [f64; 10]| {
            let total: f64 = weights.iter().sum();
            (0..10)
                .map(|i| (i as TokenId, weights[i] / total))
                .collect()
        };
        (
            normal([9.0, 1.0, 4.0, 0.5, 2.0, 7.0, 0.1, 3.0, 1.0, 5.0]),
            normal([1.0, 6.0, 4.0, 2.5, 2.0, 1.0, 3.1, 0.0, 8.0, 5.0]),
        )
    }

    /// Behaviour: as samples grow from 10 to 100,000 the distance to the target falls at least
    /// twentyfold. Twice, for drafts with probabilities and for certain ones.
    #[test]
    fn what_is_emitted_converges_to_the_target() {
        let (p, q) = distributions();
        for certain in [false, true] {
            let few = distance(&p, &q, certain, 10);
            let many = distance(&p, &q, certain, 100_000);
            assert!(many * 20.0 < few, "{certain}: {few} to {many}");
        }
    }

    #[test]
    fn rows_with_the_same_seed_are_the_same() {
        let (p, q) = distributions();
        let run = || -> Vec<TokenId> {
            (0..200)
                .map(|position| sampler(3).verify(position, draw(&q, 3, position), &p, Some(&q)))
                .collect()
        };
        let first = run();
        for _ in 0..20 {
            assert_eq!(run(), first);
        }
    }

    #[test]
    fn a_draft_equal_to_the_target_is_always_accepted_and_an_impossible_one_never() {
        let (p, _) = distributions();
        for position in 0..500 {
            let draft = draw(&p, 5, position);
            assert_eq!(sampler(5).verify(position, draft, &p, Some(&p)), draft);
            // One that q cannot have given.
            assert_ne!(sampler(5).verify(position, 77, &p, Some(&p)), 77);
        }
    }
}
