//! Lines over time, drawn as SVG: panels on a grid, one legend, the rate of the link as a line of its own.
//!
//! Everything is drawn with plain elements and attributes, so that any viewer shows it alike, on light and dark pages.

use std::fmt::{self, Write};

/// Size of a panel's plot, and the room around it for labels, in pixels.
const PLOT: (f64, f64) = (270.0, 170.0);
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 44.0;
/// Room for the title and the legend above the panels.
const HEAD: f64 = 64.0;
/// Width of a letter of the legend, roughly.
const LETTER: f64 = 7.0;
/// Ticks of an axis, about.
const TICKS: f64 = 4.0;
/// Colours that people with any kind of sight can tell apart (Okabe and Ito).
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#7f7f7f", "#000000",
];

/// One line: the index of its name, and its points.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// One picture.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    /// What the axes say.
    pub(super) labels: (&'static str, &'static str),
    pub(super) lines: Vec<Line>,
    /// What cannot be passed, by `x`: drawn as a broken line.
    pub(super) limit: Vec<(f64, f64)>,
}

/// Pictures with one legend.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    pub(super) title: String,
    pub(super) names: Vec<String>,
    /// What the broken line is.
    pub(super) limit: &'static str,
    pub(super) columns: usize,
    pub(super) panels: Vec<Panel>,
}

impl Sheet {
    /// The whole file.
    pub(super) fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.draw(&mut out);
        out
    }

    fn draw(&self, out: &mut String) -> fmt::Result {
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        let rows = self.panels.len().div_ceil(columns);
        let cell = (LEFT + PLOT.0 + RIGHT, TOP + PLOT.1 + BOTTOM);
        let width = (cell.0 * columns as f64).max(self.legend_width());
        let height = HEAD + cell.1 * rows as f64;
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">"
        )?;
        writeln!(
            out,
            "<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>"
        )?;
        text(
            out,
            (LEFT, 24.0),
            "start",
            &self.title,
            "font-size=\"16\" font-weight=\"bold\"",
        )?;
        self.legend(out)?;
        for (index, panel) in self.panels.iter().enumerate() {
            let (column, row) = ((index % columns) as f64, (index / columns) as f64);
            panel.draw(out, (column * cell.0 + LEFT, HEAD + row * cell.1 + TOP))?;
        }
        writeln!(out, "</svg>")
    }

    fn legend(&self, out: &mut String) -> fmt::Result {
        let mut x = LEFT;
        let limit = (self.limit, "#555555", " stroke-dasharray=\"5 3\"");
        let names = self.names.iter().enumerate();
        let names = names.map(|(index, name)| (&**name, colour(index), ""));
        for (name, colour, dashes) in names.chain([limit]) {
            let end = x + 22.0;
            writeln!(
                out,
                "<line x1=\"{x}\" y1=\"46\" x2=\"{end}\" y2=\"46\" stroke=\"{colour}\" stroke-width=\"2.5\"{dashes}/>"
            )?;
            text(out, (end + 6.0, 50.0), "start", name, "")?;
            x += entry_width(name);
        }
        Ok(())
    }

    fn legend_width(&self) -> f64 {
        let names = self.names.iter().map(|name| entry_width(name));
        LEFT + names.sum::<f64>() + entry_width(self.limit)
    }
}

impl Panel {
    fn draw(&self, out: &mut String, (left, top): (f64, f64)) -> fmt::Result {
        let (width, height) = PLOT;
        let points = || self.lines.iter().flat_map(|line| &line.points).chain(&self.limit);
        let x_max = points().fold(0.0, |most: f64, point| most.max(point.0)).max(1e-9);
        let y_max = points().fold(0.0, |most: f64, point| most.max(point.1)).max(1e-9) * 1.08;
        let place = |(x, y): (f64, f64)| {
            let x = left + (x / x_max).clamp(0.0, 1.0) * width;
            (x, top + height - (y / y_max).clamp(0.0, 1.0) * height)
        };
        writeln!(
            out,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#999999\"/>"
        )?;
        let middle = (left + width / 2.0, top + height / 2.0);
        text(
            out,
            (middle.0, top - 9.0),
            "middle",
            &self.title,
            "font-weight=\"bold\"",
        )?;
        text(out, (middle.0, top + height + 34.0), "middle", self.labels.0, "")?;
        let (x, y) = (left - 44.0, middle.1);
        let turned = format!("transform=\"rotate(-90 {x} {y})\"");
        text(out, (x, y), "middle", self.labels.1, &turned)?;
        for tick in ticks(x_max) {
            let (x, y) = place((tick, 0.0));
            writeln!(out, "<path d=\"M{x:.1} {y:.1}v5\" stroke=\"#999999\"/>")?;
            text(out, (x, y + 18.0), "middle", &number(tick), "")?;
        }
        for tick in ticks(y_max) {
            let (x, y) = place((0.0, tick));
            writeln!(out, "<path d=\"M{x:.1} {y:.1}h{width}\" stroke=\"#e5e5e5\"/>")?;
            text(out, (x - 6.0, y + 4.0), "end", &number(tick), "")?;
        }
        polyline(
            out,
            self.limit.iter().copied().map(place),
            "#555555",
            "1.2\" stroke-dasharray=\"5 3",
        )?;
        // The first is ours: drawn last, over the others.
        for line in self.lines.iter().rev() {
            let thick = if line.name == 0 { "2.4" } else { "1.5" };
            polyline(
                out,
                line.points.iter().copied().map(place),
                colour(line.name),
                thick,
            )?;
        }
        Ok(())
    }
}

fn polyline(
    out: &mut String,
    points: impl Iterator<Item = (f64, f64)>,
    colour: &str,
    width: &str,
) -> fmt::Result {
    write!(
        out,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" points=\""
    )?;
    for (x, y) in points {
        write!(out, "{x:.1},{y:.1} ")?;
    }
    writeln!(out, "\"/>")
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str, more: &str) -> fmt::Result {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\" {more}>{words}</text>"
    )
}

/// Room for a name in the legend, with its line.
fn entry_width(name: &str) -> f64 {
    44.0 + name.chars().count() as f64 * LETTER
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// Round numbers from 0 to `most`.
fn ticks(most: f64) -> impl Iterator<Item = f64> {
    let rough = most / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|round| round * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let count = (most / step).floor() as u32;
    (0..=count).map(move |n| f64::from(n) * step)
}

fn number(value: f64) -> String {
    let rounded = (value * 1_000.0).round() / 1_000.0;
    format!("{rounded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_stay_inside() {
        let all = |most: f64| ticks(most).map(number).collect::<Vec<_>>().join(" ");
        assert_eq!(all(108.0), "0 50 100");
        assert_eq!(all(1_080.0), "0 500 1000");
        assert_eq!(all(4.2), "0 2 4");
        assert_eq!(all(1.0), "0 0.25 0.5 0.75 1");
    }

    #[test]
    fn a_sheet_has_every_name_title_and_label_and_each_line_where_it_belongs() {
        let sheet = Sheet {
            title: "One & all".to_owned(),
            names: vec!["ours".to_owned(), "theirs".to_owned()],
            limit: "link",
            columns: 2,
            panels: vec![Panel {
                title: "a < b".to_owned(),
                labels: ("seconds", "Mbit/s"),
                lines: vec![Line {
                    name: 1,
                    points: vec![(0.0, 0.0), (10.0, 100.0)],
                }],
                limit: vec![(0.0, 100.0), (10.0, 100.0)],
            }],
        };
        let svg = sheet.svg();
        for part in [
            "One &amp; all",
            "a &lt; b",
            "ours",
            "theirs",
            "link",
            "seconds",
            "Mbit/s",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        // From the lower left corner to the right edge, a little below the top.
        assert!(svg.contains("points=\"58.0,264.0 328.0,106.6 \""), "{svg}");
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
