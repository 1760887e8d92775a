//! Buckets of a native histogram: exponential, so that a quantile is exact to a few percent at any scale.
//!
//! Source: Prometheus, "Native Histograms", section "Data model". A bucket with the index `i` counts the values
//! in `(2^((i - 1) / 8), 2^(i / 8)]`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Resolution: 2^3 buckets per doubling. The width of a bucket is 9 % of its bound.
pub(super) const SCHEMA: i32 = 3;
/// Values up to this one, about a microsecond, are in the zero bucket.
pub(super) const ZERO_THRESHOLD: f64 = 1.0 / (1 << 20) as f64;

const PER_OCTAVE: i32 = 1 << SCHEMA;
/// Index of the first bucket, above the zero bucket.
const FIRST: i32 = -20 * PER_OCTAVE + 1;
/// Index of the last bucket, up to 2^17 s. It also counts the values above, of more than 36 hours.
const LAST: i32 = 17 * PER_OCTAVE;
const COUNT: usize = (LAST - FIRST + 1) as usize;

/// Upper bounds of the buckets of an octave, as the fraction that multiplies a power of two.
const FRACTIONS: [f64; PER_OCTAVE as usize] = [
    0.5,
    0.545_253_866_332_628_8,
    0.594_603_557_501_360_5,
    0.648_419_777_325_504_8,
    0.707_106_781_186_547_5,
    0.771_105_412_703_970_4,
    0.840_896_415_253_714_4,
    0.917_004_043_204_671_1,
];

/// Counts of values that are not negative.
#[derive(Debug)]
pub(super) struct NativeBuckets {
    zero: AtomicU64,
    counts: Box<[AtomicU64]>,
}

impl Default for NativeBuckets {
    fn default() -> Self {
        Self { zero: AtomicU64::new(0), counts: (0..COUNT).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl NativeBuckets {
    pub(super) fn record(&self, value: f64) {
        let bucket = if value <= ZERO_THRESHOLD {
            Some(&self.zero)
        } else {
            let position = index(value).clamp(FIRST, LAST) - FIRST;
            self.counts.get(position as usize)
        };
        if let Some(bucket) = bucket {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn zero_count(&self) -> u64 {
        self.zero.load(Ordering::Relaxed)
    }

    /// Returns index and count of the buckets that are not empty.
    pub(super) fn counts(&self) -> impl Iterator<Item = (i32, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        (FIRST..).zip(counts).filter(|(_, count)| *count > 0)
    }
}

/// Returns the index of the bucket of a positive, normal number.
fn index(value: f64) -> i32 {
    // The value is `fraction * 2^exponent`, with a fraction in [0.5, 1).
    let bits = value.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1022;
    let fraction = f64::from_bits(bits & !(0x7ff << 52) | 1022 << 52);
    let position = FRACTIONS.partition_point(|bound| *bound < fraction);
    position as i32 + (exponent - 1) * PER_OCTAVE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_follows_definition() {
        for (value, expected) in
            [(1.0, 0), (2.0, 8), (0.5, -8), (1.0 + f64::EPSILON, 1), (1.09, 1), (1.091, 2)]
        {
            assert_eq!(index(value), expected, "{value}");
        }
        let mut value = ZERO_THRESHOLD * 1.000_1;
        while value < 1e6 {
            assert_eq!(index(value), (value.log2() * 8.0).ceil() as i32, "{value}");
            value *= 1.003_7;
        }
        for (n, fraction) in FRACTIONS.iter().enumerate() {
            assert!((fraction - (n as f64 / 8.0 - 1.0).exp2()).abs() < 1e-15, "{n}");
        }
    }

    #[test]
    fn extreme_values_are_counted() {
        let buckets = NativeBuckets::default();
        for value in
            [-1.0, 0.0, f64::MIN_POSITIVE, ZERO_THRESHOLD, ZERO_THRESHOLD * 1.01, 1e6, 1e300]
        {
            buckets.record(value);
        }
        assert_eq!(buckets.zero_count(), 4);
        assert_eq!(buckets.counts().collect::<Vec<_>>(), [(FIRST, 1), (LAST, 2)]);
    }
}
