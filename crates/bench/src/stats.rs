//! Order statistics.

/// Values in ascending order.
#[derive(Debug)]
pub(crate) struct Sorted(Vec<f64>);

impl FromIterator<f64> for Sorted {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl Sorted {
    /// Returns the number of values.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the number of values above `limit`.
    pub(crate) fn count_above(&self, limit: f64) -> usize {
        self.0.len() - self.0.partition_point(|&value| value <= limit)
    }

    /// Returns the value that is greater than the `share` of the values, or NaN if there are none.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let index = (self.0.len() as f64 * share) as usize;
        self.0.get(index).or(self.0.last()).copied().unwrap_or(f64::NAN)
    }
}

/// Returns the median of `values`.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Sorted::from_iter(values).quantile(0.5)
}

/// Formats the median, minimum and maximum of `values`.
pub(crate) fn summary(values: impl IntoIterator<Item = f64>, digits: usize) -> String {
    let values = Sorted::from_iter(values);
    let [min, median, max] = [0.0, 0.5, 1.0].map(|share| values.quantile(share));
    format!("{median:.digits$} [{min:.digits$}..{max:.digits$}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_ignore_order() {
        let values: Sorted = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|share| values.quantile(share)),
            [1.0, 51.0, 100.0, 100.0]
        );
        assert_eq!(values.count_above(98.0), 2);
        assert!(median([]).is_nan());
    }

    #[test]
    fn summary_has_median_minimum_maximum() {
        assert_eq!(summary([3.0, 1.0, 2.0], 1), "2.0 [1.0..3.0]");
    }
}
