//! Medians, and how sure their ratio is.

/// Resamplings per interval.
const RESAMPLES: usize = 500;

/// What is told of many samples of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) least: u64,
    pub(crate) median: u64,
    /// 90 of 100 samples are not above it.
    pub(crate) p90: u64,
    pub(crate) most: u64,
    pub(crate) samples: usize,
}

impl Summary {
    /// Of samples in any order; nothing of no samples.
    pub(crate) fn of(samples: &[u64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let at = |tenths: usize| sorted[(sorted.len() - 1) * tenths / 10];
        Some(Self { least, median: at(5), p90: at(9), most, samples: sorted.len() })
    }
}

/// Bounds of the ratio of two medians, with 95 % confidence, by the bootstrap: both sets are drawn anew, with
/// replacement, again and again. The draws follow from a fixed seed, so the same samples give the same bounds.
pub(crate) fn ratio_bounds(samples: &[u64], base: &[u64]) -> Option<(f64, f64)> {
    if samples.is_empty() || base.is_empty() {
        return None;
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut buffer = Vec::new();
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .map(|_| resampled_median(samples, &mut random, &mut buffer) / resampled_median(base, &mut random, &mut buffer))
        .collect();
    ratios.sort_unstable_by(f64::total_cmp);
    Some((ratios[RESAMPLES / 40], ratios[RESAMPLES - 1 - RESAMPLES / 40]))
}

#[expect(clippy::cast_precision_loss, reason = "instruction counts stay far below 2^52")]
fn resampled_median(samples: &[u64], random: &mut Random, buffer: &mut Vec<u64>) -> f64 {
    buffer.clear();
    buffer.extend((0..samples.len()).map(|_| samples[random.below(samples.len())]));
    let middle = (buffer.len() - 1) / 2;
    *buffer.select_nth_unstable(middle).1 as f64
}

/// Marsaglia's xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_order() {
        let samples: Vec<u64> = (0..=100).rev().collect();
        assert_eq!(Summary::of(&samples), Some(Summary { least: 0, median: 50, p90: 90, most: 100, samples: 101 }));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn bounds_enclose_the_ratio() {
        let base: Vec<u64> = (0..500).map(|number| 1000 + number % 7).collect();
        let twice: Vec<u64> = base.iter().map(|sample| sample * 2).collect();
        let (low, high) = ratio_bounds(&twice, &base).unwrap();
        assert!(low <= 2.0 && 2.0 <= high && high - low < 0.02, "{low} {high}");
    }

    #[test]
    fn equal_samples_leave_no_doubt() {
        assert_eq!(ratio_bounds(&[3000; 10], &[2000; 10]), Some((1.5, 1.5)));
        assert_eq!(ratio_bounds(&[], &[1]), None);
    }
}
