//! When an endpoint wants to be asked again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// No wait that an endpoint asks for is longer: a wrong date must not silence it for a year.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The wait that `headers` ask for: OpenAI's `retry-after-ms`, else `Retry-After`, in seconds or
/// until a date. A date is read against the answer's own `Date`, where it has one, so that clocks
/// that differ do no harm.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(millis) = text("retry-after-ms").and_then(|text| text.parse::<u64>().ok()) {
        return Some(Duration::from_millis(millis).min(LONGEST));
    }
    let wait = text(RETRY_AFTER.as_str())?;
    let wait = match wait.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => {
            let until = seconds_of(wait)?;
            let now = text("date").and_then(seconds_of).or_else(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.ok().map(|since| since.as_secs())
            })?;
            Duration::from_secs(until.saturating_sub(now))
        }
    };
    Some(wait.min(LONGEST))
}

/// Seconds from 1970 to a date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn seconds_of(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = date.split_once(", ")?;
    let mut parts = rest.split(' ');
    let mut next = || parts.next();
    let day: u64 = next()?.parse().ok()?;
    let month = next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = next()?.parse().ok()?;
    let mut clock = next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let zone = next()?;
    let in_range = (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if zone != "GMT" || !in_range || !(1970..10_000).contains(&year) {
        return None;
    }
    // Days of the civil calendar, counted from March, so that a leap day is a year's last.
    let (years, months) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let before_year = years * 365 + years / 4 - years / 100 + years / 400;
    let days = before_year + (153 * months + 2) / 5 + day - 1;
    // From March of the year 0 to 1970.
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Option<u128> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a value"));
        }
        retry_after(&map).map(|wait| wait.as_millis())
    }

    #[test]
    fn dates_are_seconds() {
        assert_eq!(seconds_of("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(
            seconds_of("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777)
        );
        assert_eq!(
            seconds_of("Thu, 29 Feb 2024 12:00:00 GMT"),
            Some(1_709_208_000)
        );
        for wrong in [
            "",
            "soon",
            "Sun, 06 Nov 1994",
            "Sun, 99 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(seconds_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn seconds_milliseconds_and_dates() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("retry-after", "2")]), Some(2000));
        assert_eq!(of(&[("retry-after", "0.5")]), Some(500));
        assert_eq!(of(&[("retry-after", "-1")]), None);
        assert_eq!(
            of(&[("retry-after", "x"), ("retry-after-ms", "7")]),
            Some(7)
        );
        assert_eq!(of(&[("retry-after", "99999999999")]), Some(86_400_000));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(
            of(&[
                ("retry-after", date),
                ("date", "Sun, 06 Nov 1994 08:49:30 GMT")
            ]),
            Some(7000)
        );
        assert_eq!(of(&[("retry-after", date)]), Some(0));
    }
}
