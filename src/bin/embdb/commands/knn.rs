//! `knn`: many queries by vector.

use std::path::PathBuf;

use clap::Args;
use embdb::db::search::{KnnReport, SearchOptions};
use embdb::options::Task;
use embdb::types::{Metric, vector_problem};
use embdb::{Db, Error};
use serde_json::json;

use super::search::options;
use crate::args::{Ranking, positive};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::input::{npy, queries};

/// Search for many vectors
#[derive(Debug, Args)]
pub struct Knn {
    /// Queries, one vector a row: .npy, .fvecs, or .parquet (the column `vector`, or its only list)
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    #[command(flatten)]
    ranking: Ranking,
    /// Threads to search with
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    threads: usize,
    /// Write the ids as a NumPy array of 64-bit integers
    #[arg(long, value_name = "IDS.npy")]
    out: Option<PathBuf>,
}

impl Knn {
    /// Searches; prints speed, writes ids.
    pub fn run(self, context: &mut Context) -> Outcome {
        let options = options(&self.ranking)?;
        let (rows, columns, values) = queries::read(&self.queries)?;
        let db = context.read()?;
        if let Some(&dim) = db.info()?.dims.last()
            && rows > 0
            && columns != dim as usize
        {
            let name = self.queries.display();
            return Err(Failure::input(format!(
                "{name}: the vectors have {columns} values, the database {dim}"
            )));
        }
        let work = context.work();
        let report = match db.exists() {
            true => db.knn(&values, &options, self.threads, &work.task)?,
            false => nothing(&db, &values, columns, &options)?,
        };
        drop(work);
        if let Some(out) = &self.out {
            npy::write_i64(out, rows, options.k, &integers(&report.ids, rows, options.k)?)?;
        }
        let per = |seconds: f64| if seconds > 0.0 { rows as f64 / seconds } else { 0.0 };
        context.out.summary(&json!({
            "queries": rows,
            "qps": per(report.seconds),
            "qps_cpu": per(report.cpu_seconds),
            "p50_us": report.p50_us,
            "p99_us": report.p99_us,
            "k": options.k,
            "ef": report.ef,
        }))?;
        Ok(0)
    }
}

/// Where nothing is stored nothing is found, as in a search; queries and options must make sense all the same.
fn nothing(db: &Db, queries: &[f32], columns: usize, options: &SearchOptions) -> Result<KnnReport, Error> {
    db.search_batch(&[], options, &Task::default())?;
    let rows = queries.chunks_exact(columns.max(1));
    for (n, row) in rows.clone().enumerate() {
        // The metric is not known yet, and only under one of them a zero vector is wrong.
        if let Some(problem) = vector_problem(row, columns, Metric::L2) {
            return Err(Error::input(format!("query {n}: {problem}")));
        }
    }
    let (ids, ef) = (vec![Vec::new(); rows.len()], options.ef.unwrap_or_default());
    Ok(KnnReport { ids, seconds: 0.0, cpu_seconds: 0.0, p50_us: 0.0, p99_us: 0.0, ef })
}

/// The ids as a matrix, -1 where there are fewer hits.
fn integers(ids: &[Vec<String>], rows: usize, k: usize) -> Result<Vec<i64>, Error> {
    let mut matrix = vec![-1; rows * k];
    for (row, ids) in matrix.chunks_mut(k).zip(ids) {
        for (cell, id) in row.iter_mut().zip(ids) {
            *cell =
                id.parse().map_err(|_| Error::input(format!("--out: the id {id:?} is no 64-bit integer")))?;
        }
    }
    Ok(matrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_hits_are_minus_one() {
        let ids = [vec!["7".to_string(), "-3".into()], vec![]];
        assert_eq!(integers(&ids, 2, 3).unwrap(), [7, -3, -1, -1, -1, -1]);
        assert_eq!(integers(&[vec!["a".into()]], 1, 1).unwrap_err().exit_code(), 1);
    }
}
