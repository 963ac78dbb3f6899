//! The figures of one load with what they belong to, and the statistics over rounds.

use serde::Serialize;

use crate::load::Figures;

/// One load.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    pub contender: String,
    pub workload: &'static str,
    /// From zero.
    pub round: usize,
    #[serde(flatten)]
    pub figures: Figures,
}

/// The middle value, or the mean of the two in the middle; `None` of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

/// All cells of one contender and workload.
pub fn of<'a>(cells: &'a [Cell], contender: &'a str, workload: &'a str) -> impl Iterator<Item = &'a Cell> {
    cells.iter().filter(move |cell| cell.contender == contender && cell.workload == workload)
}

/// The median over rounds of what the one has in a round divided by what the other has in the same.
pub fn ratio(
    cells: &[Cell],
    workload: &str,
    contender: &str,
    reference: &str,
    figure: impl Fn(&Figures) -> Option<f64>,
) -> Option<f64> {
    let in_round =
        |name, round| of(cells, name, workload).find(|cell| cell.round == round).and_then(|cell| figure(&cell.figures));
    let rounds = of(cells, contender, workload).map(|cell| cell.round);
    median(rounds.filter_map(|round| Some(in_round(contender, round)? / in_round(reference, round)?)))
}
