//! Calls on a database of plain vectors, power cuts and kills among them, beside a map in memory that says what must be there.

use std::collections::BTreeMap;
use std::sync::Arc;

use embdb::storage::sim::{CrashMode, SimVfs};
use embdb::types::{Codec, Document, Metric};
use embdb::{CreateOptions, Db, OpenOptions, Task};

use crate::patch::Input;

/// Where the database lies.
const PATH: &str = "db";
/// Dimension of the vectors.
const DIM: usize = 3;
/// Calls that are made at most.
const MOST: usize = 60;

type Vector = [f32; DIM];
type Contents = BTreeMap<String, Vector>;

/// A database and what it must hold.
struct World {
    disk: SimVfs,
    options: OpenOptions,
    db: Db,
    holds: Contents,
    /// Another handle, which only reads, and what it saw when it was refreshed.
    reader: Option<(Db, Contents)>,
}

impl World {
    fn new(kind: u8) -> Self {
        let metric = [Metric::L2, Metric::Cosine, Metric::Dot][usize::from(kind) % 3];
        let codec = [Codec::Int8F32, Codec::F32, Codec::Int8][usize::from(kind / 3) % 3];
        let create = CreateOptions { vectors: Some(DIM), metric, codec, ..CreateOptions::default() };
        let options =
            OpenOptions { create, background: false, threads: 1, seal_rows: 12, ..OpenOptions::default() };
        let disk = SimVfs::new(5);
        let db = open(&disk, &options);
        Self { disk, options, db, holds: Contents::new(), reader: None }
    }

    /// One call.
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 13 {
            0..=2 => self.add(input),
            3 => self.delete(input),
            4 => self.db.seal(&Task::default()).expect("sealed"),
            5 => self.db.compact(&Task::default()).expect("compacted"),
            6 => self.reopen(self.disk.clone()),
            7 => self.crash(input),
            8 | 9 => self.search(input, true),
            10 => self.search(input, false),
            11 => self.read_later(),
            _ => self.filter(input.byte()),
        }
    }

    fn add(&mut self, input: &mut Input<'_>) {
        let mut documents = Vec::new();
        for _ in 0..=input.byte() % 8 {
            let n = input.byte() % 40;
            let vector: Vector = std::array::from_fn(|_| f32::from(input.byte() as i8) + 0.5);
            documents.push(Document::from_vector(format!("d{n}"), vector.to_vec()).meta("n", n));
            self.holds.insert(format!("d{n}"), vector);
        }
        self.db.add(documents).expect("added");
    }

    fn delete(&mut self, input: &mut Input<'_>) {
        let mut ids: Vec<String> =
            (0..=input.byte() % 4).map(|_| format!("d{}", input.byte() % 40)).collect();
        ids.sort_unstable();
        ids.dedup();
        let were = ids.iter().filter(|id| self.holds.remove(*id).is_some()).count();
        assert_eq!(self.db.delete(&ids).expect("deleted"), were as u64);
    }

    fn reopen(&mut self, disk: SimVfs) {
        self.reader = None;
        // The lock goes with the handle, and the new one may be on the same disk.
        self.db = open(&SimVfs::new(0), &self.options);
        self.db = open(&disk, &self.options);
        self.disk = disk;
        self.same(&self.db, &self.holds);
    }

    /// Everything is acknowledged, so nothing is lost in any kind of crash.
    fn crash(&mut self, input: &mut Input<'_>) {
        let mode = CrashMode::ALL[usize::from(input.byte()) % CrashMode::ALL.len()];
        let image = self.disk.crash_image(self.disk.op_count(), mode, u64::from(input.short()));
        self.reopen(image);
    }

    /// The reader still sees what it saw; then it is refreshed and sees all.
    fn read_later(&mut self) {
        match self.reader.take() {
            Some((reader, saw)) => {
                self.same(&reader, &saw);
                reader.refresh().expect("refreshed");
                self.same(&reader, &self.holds);
                self.reader = Some((reader, self.holds.clone()));
            }
            None => self.reader = Some((open(&self.disk, &self.options), self.holds.clone())),
        }
    }

    fn search(&self, input: &mut Input<'_>, exact: bool) {
        let vector: Vector = std::array::from_fn(|_| f32::from(input.byte() as i8) + 0.25);
        let k = 1 + usize::from(input.byte() % 16);
        if !self.db.exists() {
            return;
        }
        let found = self.db.search_vector(&vector).k(k).exact(exact).run().expect("searched");
        assert_eq!(found.hits.len(), k.min(self.holds.len()));
        let metric = self.options.create.metric;
        let distances: Vec<f32> =
            found.hits.iter().map(|hit| distance(metric, &vector, &self.holds[&hit.id])).collect();
        if exact && self.options.create.codec.has_full() {
            let mut right: Vec<f32> = self.holds.values().map(|own| distance(metric, &vector, own)).collect();
            right.sort_by(f32::total_cmp);
            for (found, right) in distances.iter().zip(&right) {
                assert!(
                    (found - right).abs() <= 1e-3 * (1.0 + right.abs()),
                    "{found} where {right} is nearest"
                );
            }
        }
    }

    fn filter(&self, n: u8) {
        let n = n % 40;
        let found = self.db.count_where(&format!("n < {n}"));
        let right =
            self.holds.keys().filter(|id| id[1..].parse::<u8>().is_ok_and(|number| number < n)).count();
        if self.db.exists() {
            assert_eq!(found.expect("counted").count, right as u64);
        }
    }

    fn same(&self, db: &Db, right: &Contents) {
        let ids = db.ids().expect("ids");
        assert!(ids.iter().eq(right.keys()), "{ids:?} where {:?} must be", right.keys());
        assert_eq!(db.count().expect("counted"), right.len() as u64);
    }

    fn end(&self) {
        self.same(&self.db, &self.holds);
        let report = self.db.check(false, &Task::default()).expect("checked");
        assert!(report.ok || !self.db.exists(), "{:?}", report.problems);
    }
}

fn open(disk: &SimVfs, options: &OpenOptions) -> Db {
    Db::open_vfs(Arc::new(disk.clone()), PATH, options.clone()).expect("it opens")
}

fn distance(metric: Metric, a: &Vector, b: &Vector) -> f32 {
    let dot = |a: &Vector, b: &Vector| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    match metric {
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Metric::Dot => -dot(a, b),
        Metric::L2 => a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt(),
    }
}

/// Kind of database, then calls.
pub fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.byte());
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.end();
}
