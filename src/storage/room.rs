//! Room for what a file says its length is: it may be more than there is memory, which is an error and not the end of the
//! process. The test makes each of these allocations fail in turn.

use std::io;

/// Makes room for `more` values.
pub(crate) fn reserve<T>(values: &mut Vec<T>, more: usize) -> io::Result<()> {
    #[cfg(test)]
    failing::count()?;
    values.try_reserve_exact(more).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// Which allocation fails on this thread.
#[cfg(test)]
pub(crate) mod failing {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        /// Allocations until the one that fails; 0: none fails.
        static LEFT: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn count() -> io::Result<()> {
        match LEFT.get() {
            0 => Ok(()),
            left => {
                LEFT.set(left - 1);
                if left == 1 { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
            }
        }
    }

    /// Does work of which the `number`th allocation, from 1, fails. Whether there were so many, and what came of it.
    pub fn at<T>(number: u64, work: impl FnOnce() -> T) -> (bool, T) {
        LEFT.set(number);
        let result = work();
        (LEFT.replace(0) == 0, result)
    }
}

#[cfg(test)]
mod tests {
    use super::failing;
    use crate::options::Io;
    use crate::{CreateOptions, Db, Document, Error, OpenOptions, Result, Task};

    /// Reads of every kind, then a write; how many documents there are.
    fn use_it(path: &std::path::Path, io: Io) -> Result<u64> {
        let options = OpenOptions { background: false, io, ..OpenOptions::default() };
        let db = Db::open_with(path, options)?;
        for id in ["a7", "b7"] {
            let document = db.get(id)?;
            assert!(document.is_some_and(|document| document.text.ends_with('7')));
        }
        assert_eq!(db.search_vector(&[1.0, 2.0]).k(3).run()?.hits.len(), 3);
        assert!(db.check(false, &Task::default())?.ok, "memory is short, nothing is damaged");
        db.add([Document::from_vector("late", vec![2.0, 1.0])])?;
        let count = db.count()?;
        db.delete(&["late".into()])?;
        db.compact(&Task::default())?;
        Ok(count)
    }

    #[test]
    fn each_allocation_that_a_file_asks_for_may_fail() {
        for io in [Io::Map, Io::Pread] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.embdb");
            let create = CreateOptions { vectors: Some(2), ..CreateOptions::default() };
            let db =
                Db::open_with(&path, OpenOptions { create, background: false, ..OpenOptions::default() });
            let db = db.unwrap();
            for prefix in ["a", "b"] {
                let document = |n: u32| Document {
                    text: format!("text {n}"),
                    ..Document::from_vector(format!("{prefix}{n}"), vec![1.0, n as f32 + 1.0])
                };
                db.add((0..50).map(document)).unwrap();
                if prefix == "a" {
                    db.seal(&Task::default()).unwrap();
                }
            }
            drop(db);
            let mut failed = 0;
            for number in 1.. {
                // Each time another copy: what fails leaves logs and files behind that the next compaction removes.
                let copy = dir.path().join(format!("{number}"));
                Db::open(&path).unwrap().backup(&copy, &Task::default()).unwrap();
                let (met, result) = failing::at(number, || use_it(&copy, io));
                match result {
                    Ok(count) => assert_eq!(count, 101),
                    Err(Error::Io { source, .. }) => {
                        assert_eq!(source.kind(), std::io::ErrorKind::OutOfMemory);
                        failed += 1;
                    }
                    Err(error) => panic!("allocation {number}: {error}"),
                }
                if number.is_multiple_of(8) || !met {
                    assert_eq!(use_it(&copy, io).unwrap(), 101);
                }
                if !met {
                    break;
                }
            }
            assert!(failed > 5, "{failed}");
        }
    }
}
