//! The sheet under every plot: background, title, panels.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::PlotError;
use super::style::{INK, PAPER, QUIET, WIDTH, bold, left, text};

/// What a plot is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heading<'a> {
    /// What is shown, in a few words.
    pub(super) title: &'a str,
    /// What was measured, in words.
    pub(super) scenario: &'a str,
}

/// A stack of panels of equal height below a heading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) panel_height: u32,
    pub(super) panels: u32,
}

const HEADING_HEIGHT: u32 = 34;
const SCENARIO_LINE_HEIGHT: u32 = 18;
/// About this many letters of the scenario fit one line.
const SCENARIO_LINE_LEN: usize = 125;

impl Frame {
    /// Draws the heading, lets `draw_panel` draw each panel, and gives the SVG.
    pub(super) fn draw(
        &self,
        heading: &Heading<'_>,
        mut draw_panel: impl FnMut(usize, &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), PlotError>,
    ) -> Result<String, PlotError> {
        let scenario = wrap(heading.scenario, SCENARIO_LINE_LEN);
        let top = HEADING_HEIGHT + SCENARIO_LINE_HEIGHT * scenario.len() as u32 + 4;
        let mut svg = String::new();
        {
            let size = (WIDTH, top + self.panel_height * self.panels);
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            root.fill(&PAPER)?;
            root.draw(&Text::new(heading.title.to_owned(), (14, 20), left(bold(18.0, INK))))?;
            for (index, line) in scenario.into_iter().enumerate() {
                let y = (HEADING_HEIGHT + SCENARIO_LINE_HEIGHT * index as u32) as i32 + 8;
                root.draw(&Text::new(line, (14, y), left(text(13.0, QUIET))))?;
            }
            let (_, body) = root.split_vertically(top);
            for (panel, area) in body.split_evenly((self.panels as usize, 1)).iter().enumerate() {
                draw_panel(panel, area)?;
            }
            root.present()?;
        }
        Ok(svg)
    }
}

/// Breaks text between words into lines of at most `len` letters.
fn wrap(text: &str, len: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= len => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn long_text_is_broken_between_words() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 4), ["unbreakable"]);
        assert!(wrap("  ", 4).is_empty());
    }
}
