//! The log of searches and clicks: any process appends at any time, nobody waits for the writer.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

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
    recent: Recent,
}

/// Searches whose hits a handle remembers.
const MOST: usize = 4096;

/// Ids of the hits of the last searches, by query id, so that few clicks read the log.
#[derive(Default)]
struct Recent {
    shown: HashMap<String, Vec<String>>,
    order: VecDeque<String>,
}

impl Recent {
    fn note(&mut self, query_id: &str, shown: &[String]) {
        if self.shown.insert(query_id.to_owned(), shown.to_vec()).is_none() {
            self.order.push_back(query_id.to_owned());
        }
        while self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.shown.remove(&oldest);
        }
    }
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
        if let Some(shown) = self.feedback.lock().recent.shown.get(query_id) {
            return Ok(Some(shown.clone()));
        }
        let shown = self.logged(query_id)?;
        if let Some(shown) = &shown {
            self.feedback.lock().recent.note(query_id, shown);
        }
        Ok(shown)
    }

    /// Hits of a search, out of the files. Most clicks follow soon: the newest files come first.
    fn logged(&self, query_id: &str) -> Result<Option<Vec<String>>> {
        let database = self.snapshot().manifest.database;
        for path in feedback::unmerged(self.vfs.as_ref(), &self.dir)?.iter().rev() {
            let events = feedback::read_unmerged(self.vfs.as_ref(), path, &database)?;
            if let Some(shown) = shown_among(&events, query_id)? {
                return Ok(Some(shown));
            }
        }
        shown_among(&self.raw_events()?, query_id)
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
            return;
        }
        let mut log = self.feedback.lock();
        for event in &events {
            if let Event::Search(search) = event {
                log.recent.note(&search.query_id, &search.shown);
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

    /// All events, oldest first, each once.
    pub fn events(&self) -> Result<Vec<Event>> {
        decode_all(self.raw_events()?)
    }

    /// All events as stored, some perhaps twice. A merge that runs at the same time moves files: then look again.
    fn raw_events(&self) -> Result<Vec<RawEvent>> {
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
                    None => Ok(raw),
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

fn decode_all(raw: Vec<RawEvent>) -> Result<Vec<Event>> {
    let mut events = raw.into_iter().map(|event| decode(&event)).collect::<Result<Vec<_>>>()?;
    events.sort_by(|a, b| identity(a).cmp(identity(b)));
    events.dedup_by(|a, b| identity(a) == identity(b));
    // Stable: ids stay in order among events of one time.
    events.sort_by_key(Event::time_ms);
    Ok(events)
}

/// Hits of the search with this id.
fn shown_among(events: &[RawEvent], query_id: &str) -> Result<Option<Vec<String>>> {
    /// Of an event its id alone: most are others.
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        query_id: Cow<'a, str>,
    }
    let is_it = |event: &&RawEvent| {
        event.kind == FrameType::Query
            && serde_json::from_slice::<Named<'_>>(&event.json).is_ok_and(|named| named.query_id == query_id)
    };
    match events.iter().find(is_it).map(decode).transpose()? {
        Some(Event::Search(search)) => Ok(Some(search.shown)),
        _ => Ok(None),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_searches_are_remembered_and_the_last_ones() {
        let mut recent = Recent::default();
        for number in 0..MOST + 10 {
            recent.note(&number.to_string(), &[format!("hit {number}")]);
            recent.note(&number.to_string(), &[format!("hit {number}")]);
        }
        assert_eq!((recent.shown.len(), recent.order.len()), (MOST, MOST));
        assert!(!recent.shown.contains_key("9"));
        assert_eq!(recent.shown["10"], ["hit 10"]);
    }

    #[test]
    fn hits_of_any_process_are_found_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Db::open(folder.path().join("db")).unwrap();
        let other = open();
        other
            .add([crate::Document { vector: Some(vec![1.0, 0.0]), ..crate::Document::new("a", "") }])
            .unwrap();
        let search = |text: &str| {
            let (query_id, shown) = (other.inner.event_id(), vec![text.to_owned()]);
            let search = LoggedSearch {
                query_id: query_id.clone(),
                text: text.to_owned(),
                time_ms: 1,
                generation: 1,
                shown,
                propensities: Vec::new(),
                client: None,
                teams: None,
            };
            other.inner.append_events(&[Event::Search(search)], Durability::Bulk).unwrap();
            query_id
        };
        let (first, second) = (search("first"), search("second"));
        let db = open();
        assert_eq!(db.inner.shown(&second).unwrap().unwrap(), ["second"]);
        assert_eq!(db.inner.feedback.lock().recent.order, [second]);
        // Merged by the next writer, once the process that logged it is gone.
        drop(other);
        db.delete(&["a".to_owned()]).unwrap();
        db.compact(&crate::Task::default()).unwrap();
        assert!(!db.inner.snapshot().manifest.feedback.is_empty());
        assert_eq!(db.inner.shown(&first).unwrap().unwrap(), ["first"]);
        assert_eq!(db.inner.shown("none").unwrap(), None);
    }
}
