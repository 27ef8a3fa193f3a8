//! The log of queries and clicks as User Behavior Insights (UBI) 1.3 JSON lines, both ways.
//!
//! UBI (<https://github.com/o19s/ubi>, schemas 1.3.0) has two kinds of records: a *query* with
//! `user_query`, and an *event* with `action_name`. One file holds both, one record a line, told
//! apart by these two keys. What UBI has no field for goes where it allows additions:
//!
//! | ours | UBI |
//! |---|---|
//! | query id, text, shown ids | `query_id`, `user_query`, `query_response_hit_ids` |
//! | generation | `query_attributes.generation` |
//! | client | `client_id` |
//! | propensities of the shown ids | `query_attributes.propensities` |
//! | who drafted the shown ids of two generations | `query_attributes.interleaved`: `{"generations": [a, b], "teams": [0, 1, …]}` |
//! | clicked id | `event_attributes.object.object_id` |
//! | click id, grade | `event_attributes.click_id`, `event_attributes.grade` |
//! | rank of the clicked hit, 0 if it was not shown | `event_attributes.position.ordinal` |
//!
//! Invariants: reading what was written gives the same entries; a foreign click, which has no
//! `click_id`, gets one from its content, so that importing a file twice adds nothing.

use std::collections::HashMap;
use std::io::{BufRead, Read, Write};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::options::limits;
use crate::types::calendar::Date;
use crate::types::{Event, LoggedClick, LoggedSearch, Teams};

/// Value of `application` in what is written.
const APPLICATION: &str = "embdb";
/// Actions that count as a click on a hit; other actions say nothing that is learnt from.
const CLICKS: [&str; 2] = ["click", "click_through"];

/// What [`read`] found in a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Records {
    /// Searches and clicks, in the file's order.
    pub events: Vec<Event>,
    /// Records of other actions, and of queries or clicks without identity.
    pub skipped: u64,
}

/// Writes one line for each entry.
///
/// # Errors
/// What `out` returns.
pub fn write(events: &[Event], out: &mut impl Write) -> std::io::Result<()> {
    let searches: HashMap<&str, &LoggedSearch> = events
        .iter()
        .filter_map(|event| match event {
            Event::Search(search) => Some((search.query_id.as_str(), search)),
            Event::Click(_) => None,
        })
        .collect();
    for event in events {
        let record = match event {
            Event::Search(search) => query_record(search),
            Event::Click(click) => {
                let shown = searches.get(click.query_id.as_str()).map(|search| search.shown.as_slice());
                let at = shown.and_then(|ids| ids.iter().position(|id| *id == click.id));
                click_record(click, at.map_or(0, |at| at + 1))
            }
        };
        writeln!(out, "{record}")?;
    }
    Ok(())
}

fn query_record(search: &LoggedSearch) -> Value {
    let mut attributes = json!({"generation": search.generation});
    if !search.propensities.is_empty() {
        attributes["propensities"] = json!(search.propensities);
    }
    if let Some(teams) = &search.teams {
        attributes["interleaved"] = json!({"generations": teams.generations, "teams": teams.of});
    }
    let mut record = json!({
        "application": APPLICATION,
        "query_id": search.query_id,
        "user_query": search.text,
        "query_attributes": attributes,
        "object_id_field": "id",
        "timestamp": timestamp(search.time_ms),
        "query_response_hit_ids": search.shown,
    });
    if let Some(client) = &search.client {
        record["client_id"] = json!(client);
    }
    record
}

fn click_record(click: &LoggedClick, ordinal: usize) -> Value {
    json!({
        "application": APPLICATION,
        "action_name": CLICKS[0],
        "query_id": click.query_id,
        "timestamp": timestamp(click.time_ms),
        "event_attributes": {
            "object": {"object_id": click.id, "object_id_field": "id"},
            "position": {"ordinal": ordinal},
            "click_id": click.click_id,
            "grade": click.grade,
        },
    })
}

/// Reads a file of records. `name` is the file's name, for messages. Blank lines are ignored.
///
/// # Errors
/// [`Error::Input`] with file and line for a line that is no record, [`Error::Limit`] for one over
/// [`limits::FRAME_BYTES`], [`Error::Io`] if reading fails.
pub fn read(mut reader: impl BufRead, name: &str) -> Result<Records> {
    let mut records = Records::default();
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let limit = limits::FRAME_BYTES as u64;
        let taken = (&mut reader).take(limit + 1).read_until(b'\n', &mut line);
        let taken = taken.map_err(Error::io("read", name.as_ref()))? as u64;
        if taken == 0 {
            break;
        }
        if taken > limit {
            let (what, raise) = (format!("{name}, line {number}"), "split the record".into());
            return Err(Error::Limit { what, limit, actual: taken, raise });
        }
        match record(&line) {
            Ok(Line::Event(event)) => records.events.push(event),
            Ok(Line::Other) => records.skipped += 1,
            Ok(Line::Blank) => {}
            Err(what) => return Err(Error::input(format!("{name}, line {number}: {what}"))),
        }
    }
    Ok(records)
}

enum Line {
    Event(Event),
    Other,
    Blank,
}

fn record(line: &[u8]) -> std::result::Result<Line, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("invalid UTF-8: {error}"))?.trim();
    if text.is_empty() {
        return Ok(Line::Blank);
    }
    let value: Value = serde_json::from_str(text).map_err(|error| format!("invalid JSON: {error}"))?;
    let Value::Object(object) = value else { return Err("not a JSON object".into()) };
    if let Some(action) = object.get("action_name") {
        let Value::String(action) = action else { return Err("action_name is not a string".into()) };
        if !CLICKS.contains(&action.as_str()) {
            return Ok(Line::Other);
        }
        return Ok(click(&object)?.map_or(Line::Other, |click| Line::Event(Event::Click(click))));
    }
    if object.contains_key("user_query") {
        return Ok(search(&object)?.map_or(Line::Other, |search| Line::Event(Event::Search(search))));
    }
    Err("neither a query (user_query) nor an event (action_name)".into())
}

fn search(object: &Map<String, Value>) -> std::result::Result<Option<LoggedSearch>, String> {
    let Some(query_id) = identity(object, "query_id")? else { return Ok(None) };
    let Some(Value::String(text)) = object.get("user_query") else {
        return Err("user_query is not a string".into());
    };
    let shown = match object.get("query_response_hit_ids") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|id| scalar(id).ok_or("query_response_hit_ids holds something that is no id"))
            .collect::<std::result::Result<_, _>>()?,
        Some(_) => return Err("query_response_hit_ids is not an array".into()),
    };
    let attribute = |name| object.get("query_attributes").and_then(|a: &Value| a.get(name));
    let generation = attribute("generation").and_then(number).unwrap_or(0);
    Ok(Some(LoggedSearch {
        query_id,
        text: text.clone(),
        time_ms: time(object)?,
        generation,
        propensities: propensities(attribute("propensities"), shown.len())?,
        client: identity(object, "client_id")?,
        teams: teams(attribute("interleaved"), shown.len())?,
        shown,
    }))
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// A likelihood above 0, at most 1, for each shown id.
fn propensities(value: Option<&Value>, shown: usize) -> std::result::Result<Vec<f32>, String> {
    let values = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(_) => return Err("propensities is not an array".into()),
    };
    let likely = |value: &Value| value.as_f64().map(|p| p as f32).filter(|p| *p > 0.0 && *p <= 1.0);
    let read: Option<Vec<f32>> = values.iter().map(likely).collect();
    let read = read.ok_or("propensities holds something that is not above 0 and at most 1")?;
    if !read.is_empty() && read.len() != shown {
        return Err(format!("{} propensities for {shown} hits", read.len()));
    }
    Ok(read)
}

/// Two generations, and 0 or 1 for each shown id.
fn teams(value: Option<&Value>, shown: usize) -> std::result::Result<Option<Teams>, String> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let array = |name| value.get(name).and_then(Value::as_array);
    let generations = array("generations").map(|g| g.iter().map(number).collect::<Option<Vec<u32>>>());
    let Some(&[first, second]) = generations.flatten().as_deref() else {
        return Err("interleaved.generations is not an array of two generations".into());
    };
    let team = |value: &Value| number(value).filter(|team| *team < 2).map(|team| team as u8);
    let of = array("teams").and_then(|of| of.iter().map(team).collect::<Option<Vec<u8>>>());
    match of.filter(|of| of.len() == shown) {
        Some(of) => Ok(Some(Teams { generations: [first, second], of })),
        None => Err(format!("interleaved.teams is not 0 or 1 for each of {shown} hits")),
    }
}

fn click(object: &Map<String, Value>) -> std::result::Result<Option<LoggedClick>, String> {
    let Some(query_id) = identity(object, "query_id")? else { return Ok(None) };
    let Some(Value::Object(attributes)) = object.get("event_attributes") else { return Ok(None) };
    let Some(Value::Object(target)) = attributes.get("object") else { return Ok(None) };
    let Some(id) = identity(target, "object_id")? else { return Ok(None) };
    let time_ms = time(object)?;
    let grade = match attributes.get("grade") {
        None | Some(Value::Null) => 1.0,
        Some(value) => value.as_f64().ok_or("grade is not a number")? as f32,
    };
    if !grade.is_finite() {
        return Err("grade is not a finite 32-bit number".into());
    }
    let click_id = match identity(attributes, "click_id")? {
        Some(click_id) => click_id,
        None => derived_id(&query_id, &id, time_ms),
    };
    Ok(Some(LoggedClick { click_id, query_id, id, grade, time_ms }))
}

/// A click's identity from its content.
fn derived_id(query_id: &str, id: &str, time_ms: u64) -> String {
    let content = json!([query_id, id, time_ms]).to_string();
    blake3::hash(content.as_bytes()).to_hex().chars().take(32).collect()
}

/// A non-empty identity, `None` if the key is missing, null or empty.
fn identity(object: &Map<String, Value>, key: &str) -> std::result::Result<Option<String>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match scalar(value) {
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => Ok(Some(text)),
            None => Err(format!("{key} is neither a string nor an integer")),
        },
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// The record's time in Unix milliseconds; 0 if it has none (a query need not have one).
fn time(object: &Map<String, Value>) -> std::result::Result<u64, String> {
    match object.get("timestamp") {
        None | Some(Value::Null) => Ok(0),
        Some(Value::String(text)) => {
            parse_timestamp(text).ok_or_else(|| format!("timestamp {text:?} is no ISO 8601 time after 1970"))
        }
        Some(_) => Err("timestamp is not a string".into()),
    }
}

/// Unix milliseconds as ISO 8601 in UTC, such as `2018-11-13T20:20:39.125Z`.
pub fn timestamp(time_ms: u64) -> String {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let date = Date::of_days(days as i64);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// Parses `YYYY-MM-DDTHH:MM:SS[.fraction][Z|±HH:MM]`; without a zone it is UTC.
fn parse_timestamp(text: &str) -> Option<u64> {
    let (date, rest) = text.trim().split_once(['T', 't', ' '])?;
    let at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(at);
    let mut date = date.split('-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut clock = clock.split(':').map(digits);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next().unwrap_or(Some(0))?);
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !valid || date.next().is_some() || clock.next().is_some() {
        return None;
    }
    let days = Date { year, month: month as u8, day: day as u8 }.days();
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let ms = seconds * 1000 + milliseconds(fraction)? - zone_minutes(zone)? * 60_000;
    u64::try_from(ms).ok()
}

fn digits(text: &str) -> Option<i64> {
    if text.is_empty() || text.len() > 4 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn milliseconds(fraction: &str) -> Option<i64> {
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<3}").get(..3)?.parse().ok()
}

/// Minutes that the zone is ahead of UTC.
fn zone_minutes(zone: &str) -> Option<i64> {
    let sign = match zone.chars().next() {
        None | Some('Z' | 'z') => return (zone.len() <= 1).then_some(0),
        Some('-') => -1,
        Some(_) => 1,
    };
    let zone = zone.get(1..)?;
    let (hours, minutes) = match zone.split_once(':') {
        Some((hours, minutes)) => (digits(hours)?, digits(minutes)?),
        None if zone.len() == 4 => (digits(zone.get(..2)?)?, digits(zone.get(2..)?)?),
        None => (digits(zone)?, 0),
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Event> {
        vec![
            Event::Search(LoggedSearch {
                query_id: "q1".into(),
                text: "forgot \"my\" login\nü".into(),
                time_ms: 1_542_140_439_125,
                generation: 3,
                shown: vec!["a".into(), "b".into(), "c".into()],
                propensities: vec![1.0, 0.5, 0.5],
                client: Some("someone".into()),
                teams: Some(Teams { generations: [3, 1], of: vec![0, 1, 1] }),
            }),
            Event::Search(LoggedSearch {
                query_id: "q0".into(),
                text: "plain".into(),
                ..LoggedSearch::default()
            }),
            Event::Click(LoggedClick {
                click_id: "c1".into(),
                query_id: "q1".into(),
                id: "b".into(),
                grade: 0.1,
                time_ms: 1_542_140_440_000,
            }),
        ]
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut bytes = Vec::new();
        write(&sample(), &mut bytes).unwrap();
        let read = read(bytes.as_slice(), "log").unwrap();
        assert_eq!(read, Records { events: sample(), skipped: 0 });
    }

    #[test]
    fn records_have_the_keys_of_the_schemas() {
        let mut bytes = Vec::new();
        write(&sample(), &mut bytes).unwrap();
        let lines: Vec<Value> =
            String::from_utf8(bytes).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0]["user_query"], "forgot \"my\" login\nü");
        assert_eq!(lines[0]["query_response_hit_ids"], json!(["a", "b", "c"]));
        let attributes = json!({"generation": 3, "propensities": [1.0, 0.5, 0.5],
            "interleaved": {"generations": [3, 1], "teams": [0, 1, 1]}});
        assert_eq!((&lines[0]["client_id"], &lines[0]["query_attributes"]), (&json!("someone"), &attributes));
        assert!(
            lines[1].get("client_id").is_none() && lines[1]["query_attributes"] == json!({"generation": 0})
        );
        assert_eq!(lines[0]["timestamp"], "2018-11-13T20:20:39.125Z");
        assert_eq!(lines[2]["action_name"], "click");
        assert_eq!(lines[2]["event_attributes"]["object"]["object_id"], "b");
        assert_eq!(lines[2]["event_attributes"]["position"]["ordinal"], 2);
    }

    #[test]
    fn foreign_clicks_get_one_identity_and_other_actions_are_counted() {
        let line = r#"{"action_name":"click_through","query_id":"x","timestamp":"2018-11-13T20:20:39+00:00","event_attributes":{"object":{"object_id":7},"position":{"ordinal":1}}}"#;
        let other = r#"{"action_name":"add_to_cart","timestamp":"2018-11-13T20:20:39"}"#;
        let text = format!("{line}\n\n{other}\n{line}\n");
        let records = read(text.as_bytes(), "f").unwrap();
        assert_eq!(records.skipped, 1);
        assert_eq!(records.events.len(), 2);
        assert_eq!(records.events[0], records.events[1]);
        let Event::Click(click) = &records.events[0] else { panic!("not a click") };
        assert_eq!((click.id.as_str(), click.grade, click.time_ms), ("7", 1.0, 1_542_140_439_000));
        assert_eq!(click.click_id.len(), 32);
    }

    #[test]
    fn faulty_lines_are_named() {
        for (line, what) in [
            (&b"{"[..], "invalid JSON"),
            (b"[1]", "not a JSON object"),
            (b"\xff", "invalid UTF-8"),
            (b"{\"a\":1}", "neither a query"),
            (br#"{"user_query":"a","query_id":"q","timestamp":"yesterday"}"#, "ISO 8601"),
            (br#"{"user_query":1,"query_id":"q"}"#, "user_query"),
            (br#"{"user_query":"a","query_id":"q","query_response_hit_ids":[{}]}"#, "no id"),
            (
                br#"{"action_name":"click","query_id":"q","event_attributes":{"object":{"object_id":"a"},"grade":"x"}}"#,
                "grade",
            ),
            (
                br#"{"user_query":"a","query_id":"q","query_response_hit_ids":["a"],"query_attributes":{"propensities":[0]}}"#,
                "above 0",
            ),
            (
                br#"{"user_query":"a","query_id":"q","query_response_hit_ids":["a"],"query_attributes":{"propensities":[1,1]}}"#,
                "2 propensities for 1 hits",
            ),
            (
                br#"{"user_query":"a","query_id":"q","query_attributes":{"interleaved":{"generations":[1],"teams":[]}}}"#,
                "two generations",
            ),
            (
                br#"{"user_query":"a","query_id":"q","query_response_hit_ids":["a"],"query_attributes":{"interleaved":{"generations":[1,2],"teams":[2]}}}"#,
                "0 or 1",
            ),
        ] {
            let mut bytes = b"\n".to_vec();
            bytes.extend_from_slice(line);
            let error = read(bytes.as_slice(), "f.jsonl").unwrap_err().to_string();
            assert!(error.starts_with("f.jsonl, line 2: ") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn times_agree_with_known_ones() {
        // 951,782,400 is 2000-02-29T00:00:00Z and 4,102,444,800 is 2100-01-01T00:00:00Z (GNU date).
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(timestamp(4_102_444_800_000), "2100-01-01T00:00:00.000Z");
        assert_eq!(parse_timestamp("2000-02-29T01:30:00+01:30"), Some(951_782_400_000));
        assert_eq!(parse_timestamp("2000-02-28T22:30:00.5-0130"), Some(951_782_400_500));
        for bad in ["", "2000", "1969-12-31T23:59:59Z", "2000-13-01T00:00:00Z", "2000-01-01T00:00:00Zx", "é"]
        {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
        for ms in (0..4_102_444_800_000).step_by(86_399_999 * 13) {
            assert_eq!(parse_timestamp(&timestamp(ms)), Some(ms));
        }
    }
}
