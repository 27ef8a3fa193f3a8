//! The parts of the page, from the verdict to the notes.

use super::chart::{Curve, Mark, Row, curves, rows, smooth};
use super::html::{Html, beginning, bytes, duration, moment, number, signed};
use super::{Asked, Outcome, Page, Shown};
use crate::trainer::KindReport;
use crate::trainer::bias::Evidence;

/// Characters shown of a query.
const QUERY: usize = 400;
/// Characters shown of a hit.
const HIT: usize = 160;

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Forced => "published by force",
            Self::Refused => "not published",
            Self::Planned => "planned",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Forced => "forced",
            Self::Refused => "refused",
            Self::Planned => "planned",
        }
    }

    fn headline(self) -> &'static str {
        match self {
            Self::Published => "A better generation answers now",
            Self::Forced => "A new generation answers now, although the gate refused it",
            Self::Refused => "Nothing was changed",
            Self::Planned => "What a run would do",
        }
    }
}

/// A figure with its name and what is to be said of it.
fn figure(html: &mut Html, name: &'static str, value: &str, remark: &str) {
    html.raw("<div><dt>").raw(name).raw("</dt><dd>").text(value);
    if !remark.is_empty() {
        html.raw("<small>").text(remark).raw("</small>");
    }
    html.raw("</dd></div>\n");
}

/// A chart with its caption.
fn chart(html: &mut Html, caption: &str, drawing: Html) {
    html.raw("<figure><figcaption>").text(caption).raw("</figcaption>").add(drawing).raw("</figure>\n");
}

/// A table: names of columns, then rows.
fn table(html: &mut Html, names: &[&'static str], lines: impl Iterator<Item = Vec<String>>) {
    html.raw("<div class=\"scroll\"><table><thead><tr>");
    for name in names {
        html.raw("<th scope=\"col\">").raw(name).raw("</th>");
    }
    html.raw("</tr></thead><tbody>\n");
    for line in lines {
        html.raw("<tr>");
        for cell in line {
            html.raw("<td>").text(cell).raw("</td>");
        }
        html.raw("</tr>\n");
    }
    html.raw("</tbody></table></div>\n");
}

fn interval([low, high]: [f64; 2]) -> String {
    format!("{} to {}", signed(low, 4), signed(high, 4))
}

impl Page<'_> {
    /// Whether anything was judged.
    fn judged(&self) -> bool {
        self.gate.queries > 0
    }

    pub(super) fn head(&self) -> Html {
        let (gate, train) = (self.gate, self.train);
        let mut html = Html::default();
        html.raw("<header>\n<span class=\"verdict ").raw(self.outcome.class()).raw("\">");
        html.text(self.outcome.name()).raw("</span>\n<h1>").raw(self.outcome.headline()).raw("</h1>\n<p>");
        html.text(&gate.reason).raw("</p>\n<p class=\"faint\">").text(&self.database).raw(", ");
        html.text(moment(self.ended_ms)).raw("</p>\n</header>\n<dl class=\"figures\">\n");
        if self.judged() {
            let change = format!("{} → {}", number(gate.before, 4), number(gate.after, 4));
            figure(&mut html, "measure", &change, &format!("{} on {} that judge", gate.metric, gate.queries));
            figure(&mut html, "gain", &signed(gate.gain, 4), &format!("95 %: {}", interval(gate.ci95)));
        }
        let [now, before] = self.generations;
        let generation = if now == before { now.to_string() } else { format!("{before} → {now}") };
        figure(&mut html, "generation", &generation, &beginning(self.model_id, 12));
        if train.steps > 0 {
            let steps = format!("{} steps in {}", train.steps, duration(train.seconds));
            figure(&mut html, "learnt from", &train.pairs.to_string(), &steps);
        }
        let seconds: f64 = self.stages.iter().map(|stage| stage.seconds).sum();
        figure(&mut html, "time", &duration(seconds), "in all");
        if let Some(peak) = self.peak_bytes {
            figure(&mut html, "memory", &bytes(peak), "at its peak");
        }
        html.raw("</dl>\n");
        html
    }

    pub(super) fn rungs(&self) -> Html {
        let gate = self.gate;
        let mut html = Html::default();
        html.raw("<section id=\"quality\">\n<h2>Before and after</h2>\n");
        if !self.judged() {
            html.raw("<p>Nothing was judged.</p>\n</section>\n");
            return html;
        }
        let mut rungs: Vec<(usize, [f64; 2], [f64; 2])> = gate
            .by_dim
            .iter()
            .map(|(dim, means)| (dim, means, gate.ci95_by_dim.get(dim).copied().unwrap_or([f64::NAN; 2])))
            .filter_map(|(dim, means, ci95)| Some((dim.parse().ok()?, *means, ci95)))
            .collect();
        rungs.sort_by_key(|(dim, ..)| std::cmp::Reverse(*dim));
        html.raw("<p class=\"faint\">").text(gate.metric);
        html.raw(" of the held-out part, which had no share in training, <span class=\"key-before\">before</span> and ");
        html.raw(
            "<span class=\"key-after\">after</span>, at each dimension to which vectors may be cut.</p>\n",
        );
        html.raw("<div class=\"charts\">\n");
        let row = |dim: usize, mark| Row { name: dim.to_string(), mark };
        let changes: Vec<Row> = rungs.iter().map(|(dim, means, _)| row(*dim, Mark::Change(*means))).collect();
        chart(
            &mut html,
            &format!("{}, by dimension", gate.metric),
            rows("before and after by dimension", 52.0, &changes),
        );
        let gains: Vec<Row> =
            rungs.iter().map(|(dim, [a, b], ci95)| row(*dim, Mark::Interval(b - a, *ci95))).collect();
        chart(
            &mut html,
            "gain with its 95 % interval, by dimension",
            rows("gain by dimension", 52.0, &gains),
        );
        html.raw("</div>\n");
        let line = |(dim, [before, after], ci95): &(usize, [f64; 2], [f64; 2])| {
            vec![
                dim.to_string(),
                number(*before, 4),
                number(*after, 4),
                signed(after - before, 4),
                interval(*ci95),
            ]
        };
        table(&mut html, &["dimensions", "before", "after", "gain", "95 % interval"], rungs.iter().map(line));
        if !gate.by_kind.is_empty() {
            let line = |of: &KindReport| {
                let (before, after) = (number(of.before, 4), number(of.after, 4));
                vec![
                    of.kind.to_owned(),
                    of.queries.to_string(),
                    before,
                    after,
                    signed(of.after - of.before, 4),
                ]
            };
            let names = ["made of", "queries", "before", "after", "gain"];
            table(&mut html, &names, gate.by_kind.iter().map(line));
        }
        if let Some(guard) = gate.guard {
            html.raw("<p class=\"faint\">Guard: ").text(guard.documents);
            html.raw(" documents searched for by words of their own, ndcg@10 ").text(number(guard.before, 4));
            html.raw(" before and ").text(number(guard.after, 4)).raw(" after");
            if let Some(older) = guard.older {
                html.raw("; ").text(older.queries).raw(" older queries, ").text(number(older.before, 4));
                html.raw(" before and ").text(number(older.after, 4)).raw(" after");
            }
            html.raw(".</p>\n");
        }
        html.raw("</section>\n");
        html
    }

    pub(super) fn training(&self) -> Html {
        let records = &self.train.records;
        let mut html = Html::default();
        html.raw("<section id=\"training\">\n<h2>Training</h2>\n");
        if records.is_empty() {
            html.raw("<p>Nothing was trained.</p>\n</section>\n");
            return html;
        }
        let over_steps = |value: fn(&super::super::fit::StepRecord) -> f64| -> Vec<(f64, f64)> {
            records.iter().enumerate().map(|(step, record)| ((step + 1) as f64, value(record))).collect()
        };
        let (loss, rate) = (over_steps(|r| r.loss), over_steps(|r| r.rate));
        let mean = smooth(&loss, (loss.len() / 20).max(3));
        html.raw("<div class=\"charts\">\n");
        let both = [Curve { raw: true, points: &loss }, Curve { raw: false, points: &mean }];
        chart(
            &mut html,
            "loss of each step, and its moving mean",
            curves("loss by step", "step", false, &both),
        );
        let rate = [Curve { raw: false, points: &rate }];
        chart(&mut html, "learning rate", curves("learning rate by step", "step", true, &rate));
        html.raw("</div>\n");
        let (train, rows) = (self.train, records.iter().map(|record| record.rows).sum::<usize>());
        let line = vec![
            train.pairs.to_string(),
            train.steps.to_string(),
            number(train.loss_first, 4),
            number(train.loss_last, 4),
            number(records.iter().map(|record| record.norm).fold(0.0, f64::max), 3),
            duration(train.seconds),
            number(rows as f64 / train.seconds.max(1e-9), 0),
        ];
        let names =
            ["learnt from", "steps", "first loss", "last loss", "largest gradient", "time", "rows a second"];
        table(&mut html, &names, std::iter::once(line));
        html.raw("<p class=\"faint\">First and last loss: means over a tenth of the steps. Gradients: norm before clipping.</p>\n");
        html.raw("</section>\n");
        html
    }

    pub(super) fn queries(&self) -> Html {
        let mut html = Html::default();
        html.raw("<section id=\"queries\">\n<h2>Queries</h2>\n");
        let (gained, lost): (Vec<&Asked>, Vec<&Asked>) =
            self.asked.iter().partition(|asked| asked.gain() > 0.0);
        if self.asked.is_empty() {
            html.raw(match self.judged() {
                true => "<p>No held-out query is found better or worse than before, or it is not queries that judge.</p>\n</section>\n",
                false => "<p>No query was judged.</p>\n</section>\n",
            });
            return html;
        }
        html.raw("<p class=\"faint\">The nearest documents at the full dimension; <span class=\"wanted\"><span class=\"tick\">✓</span></span> ");
        html.raw("marks what a query should find.</p>\n");
        for (title, asked) in [("Gained most", gained), ("Lost most", lost)] {
            html.raw("<h3>").raw(title).raw("</h3>\n");
            if asked.is_empty() {
                html.raw("<p>None.</p>\n");
            }
            for (number, asked) in asked.into_iter().enumerate() {
                html.add(query(asked, number == 0));
            }
        }
        html.raw("</section>\n");
        html
    }

    pub(super) fn position_bias(&self) -> Html {
        let mut html = Html::default();
        let Some(bias) = self.bias else { return html };
        html.raw("<section id=\"bias\">\n<h2>Position bias</h2>\n<p class=\"faint\">How probably a rank is looked at, relative to the first. ");
        html.raw(match bias.evidence {
            Evidence::Randomised => "Estimated from searches whose ranks were shuffled: ",
            Evidence::Moved => "Estimated from documents that were shown at several ranks: ",
            Evidence::Assumed => "Assumed, for the log does not tell it: ",
        });
        html.text(bias.informative).raw(" clicks, nearest power law rank<sup>");
        html.text(signed(-bias.eta, 2)).raw("</sup>.</p>\n");
        if bias.curve.is_empty() {
            html.raw("<p>The log shows no hits.</p>\n</section>\n");
            return html;
        }
        let points: Vec<(f64, f64)> =
            bias.curve.iter().map(|rank| (rank.rank as f64, rank.examination)).collect();
        html.raw("<div class=\"charts\">\n");
        let curve = [Curve { raw: false, points: &points }];
        chart(
            &mut html,
            "probability of being looked at, by rank",
            curves("position bias by rank", "rank", true, &curve),
        );
        html.raw("</div>\n<details><summary>All ranks</summary>\n");
        let line = |rank: &crate::trainer::bias::RankBias| {
            vec![
                rank.rank.to_string(),
                number(rank.examination, 3),
                rank.shown.to_string(),
                rank.clicks.to_string(),
            ]
        };
        table(&mut html, &["rank", "looked at", "shown", "clicks"], bias.curve.iter().map(line));
        html.raw("</details>\n</section>\n");
        html
    }

    pub(super) fn spent(&self) -> Html {
        let mut html = Html::default();
        html.raw("<section id=\"spent\">\n<h2>Time and memory</h2>\n<div class=\"charts\">\n");
        let bar = |stage: &super::Stage| Row {
            name: stage.name.into(),
            mark: Mark::Bar(stage.seconds, duration(stage.seconds)),
        };
        let bars: Vec<Row> = self.stages.iter().map(bar).collect();
        chart(&mut html, "time of each stage", rows("time of each stage", 90.0, &bars));
        html.raw("</div>\n<p>");
        match self.peak_bytes {
            Some(peak) => html.text(bytes(peak)).raw(" of memory was the most that the process had."),
            None => html.raw("This system does not tell how much memory was used."),
        };
        html.raw("</p>\n");
        if self.documents > 0 {
            html.raw("<p>").text(self.documents).raw(" documents were indexed anew.</p>\n");
        }
        html.raw("</section>\n");
        html
    }

    pub(super) fn remarks(&self) -> Html {
        let mut html = Html::default();
        if self.notes.is_empty() {
            return html;
        }
        html.raw("<section id=\"notes\">\n<h2>Notes</h2>\n<ul class=\"notes\">\n");
        for note in self.notes {
            html.raw("<li>").text(note).raw("</li>\n");
        }
        html.raw("</ul>\n</section>\n");
        html
    }
}

/// A query with its hits side by side.
fn query(asked: &Asked, open: bool) -> Html {
    let mut html = Html::default();
    html.raw(if open { "<details open><summary>" } else { "<details><summary>" });
    html.raw(if asked.gain() > 0.0 { "<b class=\"gain\">" } else { "<b class=\"loss\">" });
    html.text(signed(asked.gain(), 3)).raw("</b><bdi>").text(beginning(&asked.query, QUERY));
    html.raw("</bdi></summary>\n<div class=\"sides\">\n");
    let [before, after] = &asked.hits;
    for (name, score, hits) in [
        ("<span class=\"key-before\">Before</span> ", asked.before, before),
        ("<span class=\"key-after\">After</span> ", asked.after, after),
    ] {
        html.raw("<div><h4>").raw(name).text(number(score, 3)).raw("</h4>\n<ol>\n");
        hits.iter().for_each(|shown| hit(&mut html, shown));
        html.raw("</ol></div>\n");
    }
    html.raw("</div></details>\n");
    html
}

fn hit(html: &mut Html, shown: &Shown) {
    html.raw(if shown.wanted { "<li class=\"wanted\"><span class=\"tick\">✓</span> " } else { "<li>" });
    html.raw("<bdi>").text(beginning(&shown.text, HIT)).raw("</bdi> <code>");
    match &shown.id {
        Some(id) => html.text(id),
        None => html.raw("(from the data, not stored)"),
    };
    html.raw("</code></li>\n");
}
