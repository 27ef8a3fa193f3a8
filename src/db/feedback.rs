//! The log of searches and clicks: any process appends at any time, nobody waits for the writer.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::interleaving::{Interleaving, contests};
use super::page::Arrangement;
use super::{Db, Inner};
use crate::error::{Error, Result};
use crate::format::frame::FrameType;
use crate::options::Durability;
use crate::storage::feedback::{self, FeedbackWriter, RawEvent};
#[cfg(feature = "trainer")]
use crate::trainer::{Click, LoggedQuery, PositionBias, bias};
use crate::types::{Event, LoggedClick, LoggedSearch, SearchResult};

/// This handle's feedback file, opened by the first event.
#[derive(Default)]
pub(crate) struct FeedbackLog {
    writer: Option<FeedbackWriter>,
    /// Hits of the searches met so far, by query id, so that not every click reads the whole log.
    shown: HashMap<String, Vec<String>>,
}

impl FeedbackLog {
    /// Brings all events to the disk.
    pub fn flush(&mut self) -> Result<()> {
        self.writer.as_mut().map_or(Ok(()), FeedbackWriter::sync)
    }
}

/// Counts of the log.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct LogStats {
    /// Logged searches.
    pub searches: u64,
    /// Clicks.
    pub clicks: u64,
    /// Distinct query texts.
    pub queries: u64,
    /// Time of the first event, in Unix milliseconds.
    pub since: Option<u64>,
    /// How probably each rank is looked at, once the log has [`LEAST_CLICKS`](crate::trainer::bias::LEAST_CLICKS) clicks.
    #[cfg(feature = "trainer")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position_bias: Option<PositionBias>,
    /// Generations that searches interleaved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interleaving: Vec<Interleaving>,
}

impl Db {
    /// Feedback on a hit of a logged search.
    pub fn click(&self, query_id: impl AsRef<str>, id: &str) -> Result<()> {
        self.click_graded(query_id.as_ref(), id, 1.0)
    }

    /// Feedback with a grade: larger is better, 0 or less takes an earlier click back.
    pub fn click_graded(&self, query_id: &str, id: &str, grade: f32) -> Result<()> {
        if !grade.is_finite() {
            return Err(Error::input(format!("a grade of {grade} is not a finite number")));
        }
        let Some(shown) = self.inner.shown(query_id)? else {
            return Err(Error::input(format!(
                "no logged search has the id {query_id:?}; search with --log first"
            )));
        };
        if !shown.iter().any(|shown| shown == id) && self.get(id)?.is_none() {
            return Err(Error::input(format!(
                "the document {id:?} is neither stored nor among the hits of that search"
            )));
        }
        let click = LoggedClick {
            click_id: self.inner.event_id(),
            query_id: query_id.to_owned(),
            id: id.to_owned(),
            grade,
            time_ms: self.inner.vfs.now_ms(),
        };
        self.inner.append_events(&[Event::Click(click)], self.inner.options.durability)
    }

    /// All events, oldest first, each once.
    pub fn log_events(&self) -> Result<Vec<Event>> {
        self.inner.events()
    }

    /// Adds events that are not there yet; returns how many were new.
    pub fn log_import(&self, events: Vec<Event>) -> Result<u64> {
        self.inner.ensure_created(&[])?;
        let known: HashSet<String> = self.log_events()?.iter().map(|e| identity(e).to_owned()).collect();
        let mut seen = known;
        let new: Vec<Event> = events.into_iter().filter(|e| seen.insert(identity(e).to_owned())).collect();
        for part in new.chunks(1024) {
            self.inner.append_events(part, Durability::Bulk)?;
        }
        self.inner.feedback.lock().flush()?;
        Ok(new.len() as u64)
    }

    /// Counts of the log.
    pub fn log_stats(&self) -> Result<LogStats> {
        let events = self.log_events()?;
        let mut stats = LogStats { since: events.first().map(Event::time_ms), ..LogStats::default() };
        let mut texts = HashSet::new();
        for event in &events {
            match event {
                Event::Search(search) => {
                    stats.searches += 1;
                    texts.insert(search.text.as_str());
                }
                Event::Click(_) => stats.clicks += 1,
            }
        }
        stats.queries = texts.len() as u64;
        stats.interleaving = contests(&events);
        #[cfg(feature = "trainer")]
        if stats.clicks as f64 >= bias::LEAST_CLICKS {
            stats.position_bias = Some(bias::estimate(&logged_queries(&events)));
        }
        Ok(stats)
    }
}

/// The searches of a log with their clicks, in the order of the log. Clicks on searches that are not in it are left out.
#[cfg(feature = "trainer")]
pub(crate) fn logged_queries(events: &[Event]) -> Vec<LoggedQuery> {
    let mut queries: Vec<LoggedQuery> = Vec::new();
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    for event in events {
        if let Event::Search(search) = event {
            by_id.insert(&search.query_id, queries.len());
            queries.push(LoggedQuery {
                query_id: search.query_id.clone(),
                text: search.text.clone(),
                time: search.time_ms.saturating_mul(1000),
                generation: search.generation,
                shown: search.shown.clone(),
                propensities: search.propensities.clone(),
                client: search.client.clone(),
                clicks: Vec::new(),
            });
        }
    }
    for event in events {
        if let Event::Click(click) = event
            && let Some(query) = by_id.get(click.query_id.as_str()).and_then(|&n| queries.get_mut(n))
        {
            let time = click.time_ms.saturating_mul(1000);
            query.clicks.push(Click { id: click.id.clone(), grade: click.grade, time });
        }
    }
    queries
}

/// The unique id of an event.
fn identity(event: &Event) -> &str {
    match event {
        Event::Search(search) => &search.query_id,
        Event::Click(click) => &click.click_id,
    }
}

impl Inner {
    /// An id that is unique everywhere and ascends with time: 12 hex digits of milliseconds, 20 of chance.
    pub fn event_id(&self) -> String {
        let chance = self.vfs.random();
        let more = self.vfs.random() as u16;
        format!("{:012x}{chance:016x}{more:04x}", self.vfs.now_ms())
    }

    /// Hits of a logged search, of whatever process.
    fn shown(&self, query_id: &str) -> Result<Option<Vec<String>>> {
        if let Some(shown) = self.feedback.lock().shown.get(query_id) {
            return Ok(Some(shown.clone()));
        }
        let events = self.events()?;
        let mut log = self.feedback.lock();
        log.shown.extend(events.into_iter().filter_map(|event| match event {
            Event::Search(search) => Some((search.query_id, search.shown)),
            Event::Click(_) => None,
        }));
        Ok(log.shown.get(query_id).cloned())
    }

    /// Logs searches and gives them ids. A search never fails because logging could not: then there is a note.
    pub fn log_searches(
        &self,
        texts: &[String],
        results: &mut [SearchResult],
        arrangements: Vec<Arrangement>,
        client: Option<&str>,
    ) {
        let mut events = Vec::with_capacity(texts.len());
        for ((text, result), arrangement) in texts.iter().zip(results.iter_mut()).zip(arrangements) {
            let query_id = self.event_id();
            result.query_id = Some(query_id.clone());
            events.push(Event::Search(LoggedSearch {
                query_id,
                text: text.clone(),
                time_ms: self.vfs.now_ms(),
                generation: result.generation,
                shown: result.hits.iter().map(|h| h.id.clone()).collect(),
                propensities: arrangement.propensities,
                client: client.map(str::to_owned),
                teams: arrangement.teams,
            }));
        }
        if let Err(error) = self.append_events(&events, self.options.durability) {
            for result in results {
                result.query_id = None;
                result.notes.push(format!("the search was not logged: {error}"));
            }
        }
    }

    /// Appends events to this handle's feedback file.
    pub fn append_events(&self, events: &[Event], durability: Durability) -> Result<()> {
        let raw: Result<Vec<RawEvent>> = events.iter().map(encode).collect();
        let raw = raw?;
        let mut log = self.feedback.lock();
        if log.writer.as_ref().is_none_or(FeedbackWriter::is_broken) {
            let database = self.snapshot().manifest.database;
            log.writer = Some(FeedbackWriter::create(self.vfs.as_ref(), &self.dir, database)?);
        }
        match log.writer.as_mut() {
            Some(writer) => writer.append(&raw, durability),
            None => Ok(()),
        }
    }

    /// All events, oldest first, each once. A merge that runs at the same time moves files: then look again.
    pub fn events(&self) -> Result<Vec<Event>> {
        for _ in 0..20 {
            let manifest = self.snapshot().manifest.clone();
            let mut raw = Vec::new();
            for path in feedback::unmerged(self.vfs.as_ref(), &self.dir)? {
                raw.extend(feedback::read_unmerged(self.vfs.as_ref(), &path, &manifest.database)?);
            }
            let mut vanished = None;
            for file in &manifest.feedback {
                match feedback::read_merged(self.vfs.as_ref(), &self.dir, file, &manifest.database) {
                    Ok(events) => raw.extend(events),
                    Err(error) if error.is_not_found() => vanished = Some(self.dir.join(&file.path)),
                    Err(error) => return Err(error),
                }
            }
            self.refresh()?;
            if self.snapshot().manifest.feedback == manifest.feedback {
                // A merge names another file before it removes this one.
                return match vanished {
                    Some(path) => Err(Error::corrupt(path, 0, "the file is missing")),
                    None => decode_all(&raw),
                };
            }
        }
        Err(Error::input("the log changes faster than it can be read"))
    }
}

fn encode(event: &Event) -> Result<RawEvent> {
    let (kind, json) = match event {
        Event::Search(search) => (FrameType::Query, serde_json::to_vec(search)),
        Event::Click(click) => (FrameType::Click, serde_json::to_vec(click)),
    };
    let json = json.map_err(|e| Error::input(format!("an event cannot be written as JSON: {e}")))?;
    Ok(RawEvent { kind, json })
}

fn decode_all(raw: &[RawEvent]) -> Result<Vec<Event>> {
    let mut events: HashMap<String, Event> = HashMap::with_capacity(raw.len());
    for event in raw {
        let event = decode(event)?;
        events.insert(identity(&event).to_owned(), event);
    }
    let mut events: Vec<Event> = events.into_values().collect();
    events.sort_by(|a, b| a.time_ms().cmp(&b.time_ms()).then_with(|| identity(a).cmp(identity(b))));
    Ok(events)
}

/// Whether stored bytes are an event.
pub(crate) fn is_event(raw: &RawEvent) -> bool {
    decode(raw).is_ok()
}

fn decode(raw: &RawEvent) -> Result<Event> {
    let malformed =
        |e| Error::corrupt("feedback", 0, format!("an event is malformed although its checksum holds: {e}"));
    match raw.kind {
        FrameType::Query => serde_json::from_slice(&raw.json).map(Event::Search).map_err(malformed),
        FrameType::Click => serde_json::from_slice(&raw.json).map(Event::Click).map_err(malformed),
        _ => Err(Error::corrupt("feedback", 0, "a record of another kind")),
    }
}
