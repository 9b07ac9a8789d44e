//! `strftime` in UTC and in English, as far as templates use it.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// A moment taken apart, by the Gregorian calendar in UTC.
struct Parts {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: i64,
    /// 1 to 366.
    day_of_year: i64,
    /// 0 is Sunday.
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    /// Whole seconds since 1970.
    epoch: i64,
}

impl Parts {
    fn of(time: SystemTime) -> Self {
        let (epoch, micros) = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => (after.as_secs() as i64, i64::from(after.subsec_micros())),
            Err(before) => {
                let micros = before.duration().as_micros() as i64;
                (
                    (-micros).div_euclid(1_000_000),
                    (-micros).rem_euclid(1_000_000),
                )
            }
        };
        let days = epoch.div_euclid(86_400);
        let second = epoch.rem_euclid(86_400);
        // Years are counted from March, so that the leap day is the last of its year, and in eras
        // of 400 years, which all have the same number of days.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let from_march = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let day_of_year = match month {
            1 | 2 => from_march - 306 + 1,
            _ => from_march + 59 + i64::from(leap) + 1,
        };
        Self {
            year,
            month: month as usize,
            day: from_march - (153 * month_from_march + 2) / 5 + 1,
            day_of_year,
            weekday: (days + 4).rem_euclid(7) as usize,
            hour: second / 3_600,
            minute: second / 60 % 60,
            second: second % 60,
            micros,
            epoch,
        }
    }
}

/// `time` written by `format`; an error names a directive that is not known.
pub(super) fn strftime(time: SystemTime, format: &str) -> Result<String, String> {
    let mut out = String::new();
    write(&mut out, &Parts::of(time), format)?;
    Ok(out)
}

fn write(out: &mut String, t: &Parts, format: &str) -> Result<(), String> {
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // glibc's flag: no padding.
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let mut number = |value: i64, width: usize, fill: char| {
            // Writing to a string cannot fail.
            let _ = match (padded, fill) {
                (false, _) => write!(out, "{value}"),
                (true, ' ') => write!(out, "{value:width$}"),
                (true, _) => write!(out, "{value:0width$}"),
            };
        };
        let hour12 = (t.hour + 11) % 12 + 1;
        match directive {
            Some('Y') => number(t.year, 1, '0'),
            Some('y') => number(t.year.rem_euclid(100), 2, '0'),
            Some('m') => number(t.month as i64, 2, '0'),
            Some('d') => number(t.day, 2, '0'),
            Some('e') => number(t.day, 2, ' '),
            Some('j') => number(t.day_of_year, 3, '0'),
            Some('H') => number(t.hour, 2, '0'),
            Some('I') => number(hour12, 2, '0'),
            Some('M') => number(t.minute, 2, '0'),
            Some('S') => number(t.second, 2, '0'),
            Some('f') => number(t.micros, 6, '0'),
            Some('s') => number(t.epoch, 1, '0'),
            Some('w') => number(t.weekday as i64, 1, '0'),
            Some('u') => number((t.weekday as i64 + 6) % 7 + 1, 1, '0'),
            Some('p') => out.push_str(if t.hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(MONTHS[t.month - 1]),
            Some('b' | 'h') => out.push_str(&MONTHS[t.month - 1][..3]),
            Some('A') => out.push_str(DAYS[t.weekday]),
            Some('a') => out.push_str(&DAYS[t.weekday][..3]),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('%') => out.push('%'),
            Some('F') => write(out, t, "%Y-%m-%d")?,
            Some('T' | 'X') => write(out, t, "%H:%M:%S")?,
            Some('R') => write(out, t, "%H:%M")?,
            Some('D' | 'x') => write(out, t, "%m/%d/%y")?,
            Some('c') => write(out, t, "%a %b %e %H:%M:%S %Y")?,
            Some(other) => return Err(format!("strftime_now: unknown directive %{other}")),
            None => return Err("strftime_now: the format ends in %".to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::strftime;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn at(seconds: u64, format: &str) -> String {
        strftime(UNIX_EPOCH + Duration::from_secs(seconds), format).unwrap()
    }

    #[test]
    fn known_moments() {
        // Checked against Python's datetime.
        assert_eq!(at(0, "%c"), "Thu Jan  1 00:00:00 1970");
        assert_eq!(at(951_782_400, "%F %j %A %u"), "2000-02-29 060 Tuesday 2");
        assert_eq!(at(1_709_164_799, "%F %T"), "2024-02-28 23:59:59");
        assert_eq!(
            at(1_735_603_200, "%d %b %Y, %j, %-I %p"),
            "31 Dec 2024, 366, 12 AM"
        );
        assert_eq!(at(4_102_444_799, "%F %T"), "2099-12-31 23:59:59");
        assert_eq!(
            at(1_721_995_509, "%A, %B %-d, %Y, %I:%M %p"),
            "Friday, July 26, 2024, 12:05 PM"
        );
        let before = UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(
            strftime(before, "%F %T.%f").unwrap(),
            "1969-12-31 23:59:59.500000"
        );
    }

    #[test]
    fn unknown_directives_are_named() {
        assert!(strftime(UNIX_EPOCH, "%Q").unwrap_err().contains("%Q"));
        assert!(strftime(UNIX_EPOCH, "100%").is_err());
    }

    proptest! {
        #[test]
        fn days_follow_each_other(day in 0u64..100_000) {
            let number = |format: &str, plus: u64| -> u64 {
                at((day + plus) * 86_400, format).parse().unwrap()
            };
            let (today, tomorrow) = (number("%-d", 0), number("%-d", 1));
            prop_assert!(tomorrow == today + 1 || (tomorrow == 1 && today >= 28));
            let (today, tomorrow) = (number("%-j", 0), number("%-j", 1));
            prop_assert!(tomorrow == today + 1 || (tomorrow == 1 && today >= 365));
            prop_assert_eq!((number("%w", 0) + 1) % 7, number("%w", 1));
        }
    }
}
