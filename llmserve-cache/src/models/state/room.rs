//! Who goes so that another has room.

use super::Name;

/// A model that might go.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) name: Name,
    pub(super) bytes: u64,
    pub(super) worth: f64,
    pub(super) in_use: bool,
}

/// Which candidates to give up for `need` bytes: idle ones before those in use, the least worth
/// first. Of those, the ones that turn out not to be needed are spared, the most worth first. None
/// if all of them together are not enough.
pub(super) fn victims(mut candidates: Vec<Candidate>, need: u64) -> Option<Vec<Name>> {
    candidates.sort_by(|a, b| {
        let order = a.in_use.cmp(&b.in_use).then(a.worth.total_cmp(&b.worth));
        order.then_with(|| a.name.cmp(&b.name))
    });
    let mut sum = 0u64;
    let mut chosen = Vec::new();
    for candidate in candidates {
        if sum >= need {
            break;
        }
        sum = sum.saturating_add(candidate.bytes);
        chosen.push(candidate);
    }
    if sum < need {
        return None;
    }
    for at in (0..chosen.len()).rev() {
        if sum - chosen[at].bytes >= need {
            sum -= chosen.remove(at).bytes;
        }
    }
    Some(chosen.into_iter().map(|victim| victim.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, bytes: u64, worth: f64, in_use: bool) -> Candidate {
        Candidate {
            name: name.into(),
            bytes,
            worth,
            in_use,
        }
    }

    fn names(candidates: &[Candidate], need: u64) -> Option<Vec<String>> {
        let victims = victims(candidates.to_vec(), need)?;
        Some(victims.iter().map(|name| name.to_string()).collect())
    }

    #[test]
    fn the_least_worth_go_and_idle_ones_first() {
        let all = [
            candidate("dear", 10, 3.0, false),
            candidate("busy", 10, 0.5, true),
            candidate("cheap", 10, 1.0, false),
        ];
        assert_eq!(names(&all, 0).unwrap(), [""; 0]);
        assert_eq!(names(&all, 10).unwrap(), ["cheap"]);
        assert_eq!(names(&all, 11).unwrap(), ["cheap", "dear"]);
        assert_eq!(names(&all, 21).unwrap(), ["cheap", "dear", "busy"]);
        assert_eq!(names(&all, 31), None);
    }

    #[test]
    fn who_is_not_needed_is_spared() {
        let all = [
            candidate("crumb", 1, 1.0, false),
            candidate("loaf", 10, 2.0, false),
        ];
        assert_eq!(names(&all, 5).unwrap(), ["loaf"]);
        assert_eq!(names(&all, 11).unwrap(), ["crumb", "loaf"]);
        assert_eq!(names(&all, 1).unwrap(), ["crumb"]);
    }
}
