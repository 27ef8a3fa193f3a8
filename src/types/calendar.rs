//! Days of the calendar (proleptic Gregorian, ISO 8601), counted from 1970-01-01.
//!
//! The reckoning is Howard Hinnant's, *chrono-Compatible Low-Level Date Algorithms* (`civil_from_days`,
//! `days_from_civil`): years begin in March, so that the leap day is their last, and 400 of them are an era of 146,097 days.

use std::fmt;

/// Days of an era, 400 years.
const ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

/// A day; written as `2024-02-29`, years of fewer than four digits with zeros before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Date {
    /// Year; 0 is the one before 1.
    pub year: i64,
    /// Month, from 1.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
}

impl Date {
    /// The day so many days after 1970-01-01, before it if negative.
    pub fn of_days(days: i64) -> Self {
        // By eras first: no number of days is too large.
        let shifted = days.rem_euclid(ERA) + EPOCH;
        let (era, day_of_era) = (days.div_euclid(ERA) + shifted / ERA, shifted % ERA);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self { year, month: month as u8, day: day as u8 }
    }

    /// Days after 1970-01-01. A day that its month lacks is one of the next month: February 30 is March 1 or 2. Years
    /// beyond ±10¹⁶ count as those.
    pub fn days(self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let year = self.year.clamp(-10_i64.pow(16), 10_i64.pow(16)) - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * from_march + 2) / 5 + day - 1;
        era * ERA + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - EPOCH
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The days are what `date -u -d DATE +%s` gives, by 86,400.
    #[test]
    fn known_days_have_their_dates() {
        for (days, wanted) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (19_783, "2024-03-01"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
            (-25_509, "1900-02-28"),
            (-25_508, "1900-03-01"),
            (-135_081, "1600-02-29"),
            (-719_162, "0001-01-01"),
            (-719_528, "0000-01-01"),
            (2_932_896, "9999-12-31"),
        ] {
            let date = Date::of_days(days);
            assert_eq!((date.to_string().as_str(), date.days()), (wanted, days));
        }
    }

    /// Each day of two eras against a count by the rule of leap years alone.
    #[test]
    fn days_follow_one_another() {
        let mut date = Date::of_days(-ERA);
        assert_eq!(date.to_string(), "1570-01-01");
        for days in -ERA + 1..ERA {
            let leap = date.year % 4 == 0 && (date.year % 100 != 0 || date.year % 400 == 0);
            let length = match date.month {
                2 => 28 + u8::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            date = match (date.month, date.day) {
                (12, 31) => Date { year: date.year + 1, month: 1, day: 1 },
                (month, day) if day == length => Date { month: month + 1, day: 1, ..date },
                (_, day) => Date { day: day + 1, ..date },
            };
            assert_eq!((Date::of_days(days), date.days()), (date, days));
        }
    }

    #[test]
    fn no_number_of_days_is_too_large() {
        for days in [i64::MIN, i64::MIN + 1, i64::MAX] {
            let date = Date::of_days(days);
            assert!((1..=12).contains(&date.month) && (1..=31).contains(&date.day), "{date}");
        }
        let far = Date { year: i64::MIN, month: 1, day: 1 };
        assert_eq!(far.days(), Date { year: -10_i64.pow(16), ..far }.days());
        assert_eq!(
            Date { year: 2023, month: 2, day: 30 }.days(),
            Date { year: 2023, month: 3, day: 2 }.days()
        );
    }
}
