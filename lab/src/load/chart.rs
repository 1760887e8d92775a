//! Line charts over time as SVG.

use std::io::{self, Write};

/// Size of a chart and of the margins around its plot, in the units of its view box.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 10.0;

/// Values over time.
pub(super) struct Curve {
    pub(super) color: &'static str,
    pub(super) is_dashed: bool,
    /// Points of each line as seconds and value. A gap of the curve separates two lines.
    pub(super) lines: Vec<Vec<(f64, f64)>>,
}

/// Axis of the values, in the unit of the chart.
pub(super) enum Axis {
    /// From 0.
    Linear { max: f64 },
    /// Powers of ten from one exponent to another.
    Logarithmic { from: i32, to: i32 },
}

impl Axis {
    /// Returns the position of a value on the axis, from 0 to 1.
    fn position(&self, value: f64) -> f64 {
        match *self {
            Self::Linear { max } => value / max,
            Self::Logarithmic { from, to } => {
                (value.log10() - f64::from(from)) / f64::from(to - from)
            }
        }
    }

    fn ticks(&self) -> Vec<f64> {
        match *self {
            Self::Linear { max } => ticks(max, 5.0),
            Self::Logarithmic { from, to } => {
                (from..=to).map(|exponent| 10_f64.powi(exponent)).collect()
            }
        }
    }
}

/// Writes a chart of the time from 0 to `end` seconds.
pub(super) fn write_chart(
    mut out: impl Write,
    curves: &[Curve],
    axis: &Axis,
    end: f64,
) -> io::Result<()> {
    let x = |seconds: f64| LEFT + (WIDTH - LEFT) * seconds / end;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * axis.position(value);

    write!(out, "<svg viewBox='0 0 {WIDTH} {HEIGHT}'>")?;
    for tick in axis.ticks() {
        let y = y(tick);
        write!(out, "<path class=grid d='M{LEFT} {y:.1}H{WIDTH}'/>")?;
        write!(out, "<text x={} y={:.1} text-anchor=end>{tick}</text>", LEFT - 8.0, y + 4.0)?;
    }
    for tick in ticks(end, 10.0) {
        let x = x(tick);
        write!(out, "<text x={x:.1} y={} text-anchor=middle>{tick} s</text>", HEIGHT - 8.0)?;
    }
    for Curve { color, is_dashed, lines } in curves {
        let dashed = if *is_dashed { " dashed" } else { "" };
        write!(out, "<path class='line{dashed}' stroke='{color}' d='")?;
        for line in lines {
            for (n, &(seconds, value)) in line.iter().enumerate() {
                let command = if n == 0 { 'M' } else { 'L' };
                // The short step makes a single point visible.
                write!(out, "{command}{:.1} {:.1}h.1", x(seconds), y(value))?;
            }
        }
        write!(out, "'/>")?;
    }
    write!(out, "</svg>")
}

/// Returns round values from 0 to `max`, at most `count` of them above 0.
fn ticks(max: f64, count: f64) -> Vec<f64> {
    let power = 10_f64.powf((max / count).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = factors.into_iter().find(|step| max / step <= count).unwrap_or(max);
    (0..).map(|n| f64::from(n) * step).take_while(|tick| *tick <= max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(1.0, 5.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(57.0, 5.0), [0.0, 20.0, 40.0]);
        assert_eq!(ticks(600.0, 10.0).len(), 7);
        for max in 1..2000 {
            assert!((3..=11).contains(&ticks(f64::from(max), 10.0).len()), "{max}");
        }
    }

    fn chart(lines: Vec<Vec<(f64, f64)>>, axis: &Axis) -> String {
        let mut out = Vec::new();
        let curve = Curve { color: "red", is_dashed: false, lines };
        write_chart(&mut out, &[curve], axis, 10.0).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn curve_spans_plot_with_gap() {
        let lines = vec![vec![(0.0, 0.0), (5.0, 50.0)], vec![(10.0, 100.0)]];
        let svg = chart(lines, &Axis::Linear { max: 100.0 });
        // From the lower left to the upper right corner.
        assert!(svg.contains("d='M70.0 250.0h.1L485.0 130.0h.1M900.0 10.0h.1'"), "{svg}");
    }

    #[test]
    fn logarithmic_axis_has_powers_of_ten() {
        let svg = chart(vec![vec![(0.0, 1.0)]], &Axis::Logarithmic { from: -1, to: 3 });
        for tick in ["0.1", "1", "10", "100", "1000"] {
            assert!(svg.contains(&format!(">{tick}</text>")), "{tick}: {svg}");
        }
        assert!(svg.contains("M70.0 190.0h"), "{svg}");
    }
}
