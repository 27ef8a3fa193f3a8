//! Writing HTML that cannot be broken by what it shows.
//!
//! Markup is only ever a literal of this program ([`Html::raw`] takes nothing else); everything else is text and escaped
//! ([`Html::text`]). So a query with a `<script>` in it is a query with a `<script>` in it.

use std::fmt::{Display, Write};

use crate::types::calendar::Date;

/// A piece of a page.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup, as it is.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text, or the value of a quoted attribute.
    pub fn text(&mut self, text: impl Display) -> &mut Self {
        // Writing into a string fails only if the text's own `Display` does.
        let _ = write!(Escaped(&mut self.0), "{text}");
        self
    }

    /// Another piece.
    pub fn add(&mut self, piece: Self) -> &mut Self {
        self.0.push_str(&piece.0);
        self
    }

    /// The page.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Escapes what is written through it.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // HTML has no other control characters.
                '\n' | '\t' => self.0.push(character),
                control if control.is_control() => self.0.push(char::REPLACEMENT_CHARACTER),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

/// The beginning of a text, at most so many characters, on one line.
pub(super) fn beginning(text: &str, most: usize) -> String {
    let mut characters = text.split_whitespace().flat_map(|word| std::iter::once(' ').chain(word.chars()));
    characters.next();
    let mut cut: String = characters.by_ref().take(most).collect();
    if characters.next().is_some() {
        cut.push('…');
    }
    cut
}

/// A number with so many decimals and a true minus; a dash for what is none.
pub(super) fn number(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:.decimals$}").replace('-', "−") } else { "–".into() }
}

/// The same with its sign.
pub(super) fn signed(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:+.decimals$}").replace('-', "−") } else { "–".into() }
}

/// A duration as people say it.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => "–".into(),
        s if s < 0.0995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 119.5 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min {:02.0} s", (s.round() / 60.0).floor(), s.round() % 60.0),
        s => format!("{:.0} h {:02.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
    }
}

/// An amount of memory or of disk, decimal.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.0} kB", (b / 1e3).ceil()),
        b if b < 999.5e6 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

/// A time, given in milliseconds since 1970, to the minute and in UTC.
pub(super) fn moment(milliseconds: u64) -> String {
    let minutes = milliseconds / 60_000;
    let date = Date::of_days((minutes / 1440) as i64);
    format!("{date} {:02}:{:02} UTC", minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut html = Html::default();
        html.raw("<p title=\"").text("\"'&\u{0}\u{1b}").raw("\">").text("<script>\n\u{202e}ö").raw("</p>");
        let wanted = "<p title=\"&quot;&#39;&amp;\u{fffd}\u{fffd}\">&lt;script&gt;\n\u{202e}ö</p>";
        assert_eq!(html.finish(), wanted);
    }

    #[test]
    fn figures_are_written_as_people_write_them() {
        assert_eq!([number(-0.5, 2), number(f64::NAN, 2)], ["−0.50", "–"]);
        assert_eq!([signed(0.5, 1), signed(-0.5, 1), signed(f64::INFINITY, 1)], ["+0.5", "−0.5", "–"]);
        assert_eq!([duration(0.04), duration(9.94), duration(59.7)], ["40 ms", "9.9 s", "60 s"]);
        assert_eq!(
            [duration(119.6), duration(3599.9), duration(7325.0)],
            ["2 min 00 s", "60 min 00 s", "2 h 02 min"]
        );
        assert_eq!(
            [bytes(0), bytes(1), bytes(921_400_000), bytes(999_900_000)],
            ["0 kB", "1 kB", "921 MB", "1.00 GB"]
        );
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        // `date -u -d @SECONDS` says the same.
        for (seconds, wanted) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(moment(seconds * 1000), wanted);
        }
    }

    #[test]
    fn a_beginning_is_one_line_and_no_longer_than_asked() {
        assert_eq!(beginning("  one\n two\tthree ", 100), "one two three");
        assert_eq!(beginning("äöüäöü", 3), "äöü…");
        assert_eq!(beginning("", 3), "");
    }
}
