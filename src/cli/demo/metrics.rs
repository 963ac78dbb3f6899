//! pgweir's metrics as a scraper reads them.

/// One reading of `/metrics`.
#[derive(Debug, Clone)]
pub(super) struct Metrics(Vec<Series>);

#[derive(Debug, Clone)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads Prometheus' text format, as far as pgweir uses it; what is no series is left out.
    pub fn read(text: &str) -> Self {
        Self(text.lines().filter_map(series).collect())
    }

    /// All series of a name that have these labels, added up.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |series: &Series, label: &str, value: &str| {
            series.labels.iter().any(|(name, found)| name == label && found == value)
        };
        let matching = self
            .0
            .iter()
            .filter(|series| series.name == name && labels.iter().all(|(label, value)| has(series, label, value)));
        matching.map(|series| series.value).sum()
    }
}

/// `name{label="value",…} 1.5`. No label of pgweir's holds a comma or a quote in the demo.
fn series(line: &str) -> Option<Series> {
    let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split(',').filter_map(|label| {
        let (name, value) = label.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Series { name: name.to_owned(), labels: labels.collect(), value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_added_up_by_their_labels() {
        let text = "# HELP x_total Help.\n# TYPE x_total counter\nx_total{host=\"a\",role=\"primary\"} 2\n\
                    x_total{host=\"b\",role=\"replica\"} 3.5\ny_total 7\n";
        let metrics = Metrics::read(text);
        assert_eq!(metrics.sum("x_total", &[]), 5.5);
        assert_eq!(metrics.sum("x_total", &[("role", "replica"), ("host", "b")]), 3.5);
        assert_eq!(metrics.sum("x_total", &[("role", "replica"), ("host", "a")]), 0.0);
        assert_eq!(metrics.sum("y_total", &[]), 7.0);
    }
}
