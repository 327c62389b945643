//! One pair of axes and what is drawn between them.

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::PlotError;
use super::axis::Axis;
use super::labels::{EndLabel, draw_end_labels};
use super::style::{GRID, INK, SHADE, text};

/// Room for the upright title and, without touching it, for names of ticks such as `500 ms` in a wide font.
const LEFT: i32 = 88;
const TOP: i32 = 10;
const BOTTOM: i32 = 48;
const LABEL_GAP: i32 = 20;
/// Points outside of the axes are drawn at most this far outside, so that a line still leaves in the right direction.
const OVERSHOOT: f64 = 0.02;

/// Captions of shades take turns on so many lines.
const CAPTION_LINES: i32 = 4;
/// About what a letter of a caption takes, in pixels.
const CAPTION_LETTER_WIDTH: i32 = 6;

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stroke {
    Solid,
    Dashed,
    /// For fits and diagonals.
    Dotted,
}

/// A panel that is being drawn.
pub(super) struct Panel<'a, 'b> {
    area: &'a DrawingArea<SVGBackend<'b>, Shift>,
    x: Axis,
    y: Axis,
    right: i32,
    bottom: i32,
    labels: Vec<EndLabel>,
}

impl<'a, 'b> Panel<'a, 'b> {
    /// Draws the axes and leaves `label_width` pixels free at the right for names.
    pub(super) fn new(
        area: &'a DrawingArea<SVGBackend<'b>, Shift>,
        x: Axis,
        y: Axis,
        label_width: i32,
    ) -> Result<Self, PlotError> {
        let (width, height) = area.dim_in_pixel();
        let panel =
            Self { area, x, y, right: width as i32 - label_width, bottom: height as i32 - BOTTOM, labels: Vec::new() };
        panel.draw_axes()?;
        Ok(panel)
    }

    fn draw_axes(&self) -> Result<(), PlotError> {
        let centered = |v_pos| text(12.0, INK).pos(Pos::new(HPos::Center, v_pos));
        for (value, name) in self.y.ticks() {
            let y = self.pixel(0.0, *value).1;
            self.path([(LEFT, y), (self.right, y)], GRID.stroke_width(1))?;
            let style = text(12.0, INK).pos(Pos::new(HPos::Right, VPos::Center));
            self.area.draw(&Text::new(name.clone(), (LEFT - 7, y), style))?;
        }
        for (value, name) in self.x.ticks() {
            let x = LEFT + ((self.right - LEFT) as f64 * self.x.share(*value)).round() as i32;
            self.path([(x, self.bottom), (x, self.bottom + 4)], INK.stroke_width(1))?;
            self.area.draw(&Text::new(name.clone(), (x, self.bottom + 7), centered(VPos::Top)))?;
        }
        self.path([(LEFT, self.bottom), (self.right, self.bottom)], INK.stroke_width(1))?;
        let middle = ((LEFT + self.right) / 2, self.bottom + 27);
        self.area.draw(&Text::new(self.x.title().to_owned(), middle, centered(VPos::Top)))?;
        let middle = (14, (TOP + self.bottom) / 2);
        let upright = (("sans-serif", 12.0 * 1.24).into_font().transform(FontTransform::Rotate270)).color(&INK);
        let style = upright.pos(Pos::new(HPos::Center, VPos::Center));
        self.area.draw(&Text::new(self.y.title().to_owned(), middle, style))?;
        Ok(())
    }

    /// Where a point lies, in pixels of the panel.
    fn pixel(&self, x: f64, y: f64) -> (i32, i32) {
        let clamp = |share: f64| share.clamp(-OVERSHOOT, 1.0 + OVERSHOOT);
        let across = (self.right - LEFT) as f64 * clamp(self.x.share(x));
        let up = (self.bottom - TOP) as f64 * clamp(self.y.share(y));
        (LEFT + across.round() as i32, self.bottom - up.round() as i32)
    }

    fn path<const N: usize>(&self, points: [(i32, i32); N], style: ShapeStyle) -> Result<(), PlotError> {
        Ok(self.area.draw(&PathElement::new(points, style))?)
    }

    /// Draws a line through `points`.
    pub(super) fn line(
        &self,
        points: &[(f64, f64)],
        color: RGBColor,
        width: u32,
        stroke: Stroke,
    ) -> Result<(), PlotError> {
        let pixels: Vec<_> = points.iter().map(|&(x, y)| self.pixel(x, y)).collect();
        let style = color.stroke_width(width);
        match stroke {
            Stroke::Solid => self.area.draw(&PathElement::new(pixels, style))?,
            Stroke::Dashed => self.area.draw(&DashedPathElement::new(pixels, 7, 5, style))?,
            Stroke::Dotted => self.area.draw(&DashedPathElement::new(pixels, 2, 4, style))?,
        }
        Ok(())
    }

    /// Draws a vertical line from `low` to `high`: how far repeats lie apart.
    pub(super) fn whisker(&self, x: f64, low: f64, high: f64, color: RGBColor) -> Result<(), PlotError> {
        self.path([self.pixel(x, low), self.pixel(x, high)], color.mix(0.55).stroke_width(2))
    }

    /// Shades the time from `low` to `high`, at least so wide that it can be seen.
    pub(super) fn shade(&self, low: f64, high: f64) -> Result<(), PlotError> {
        let (left, right) = (self.pixel(low, 0.0).0.max(LEFT), self.pixel(high, 0.0).0.min(self.right));
        let corners = [(left, TOP), (right.max(left + 2), self.bottom)];
        Ok(self.area.draw(&Rectangle::new(corners, SHADE.mix(0.22).filled()))?)
    }

    /// Writes what a shade stands for at its top; those with following numbers go on lines of their own.
    pub(super) fn caption(&self, x: f64, number: usize, name: &str) -> Result<(), PlotError> {
        let at = (self.pixel(x, 0.0).0 + 4, TOP + 8 + 15 * (number as i32 % CAPTION_LINES));
        // What would run out of the panel ends at its right side instead.
        let is_far = at.0 + CAPTION_LETTER_WIDTH * name.chars().count() as i32 > self.right;
        let pos = Pos::new(if is_far { HPos::Right } else { HPos::Left }, VPos::Center);
        let at = if is_far { (self.right, at.1) } else { at };
        Ok(self.area.draw(&Text::new(name.to_owned(), at, text(11.5, INK).pos(pos)))?)
    }

    /// Draws a point; hollow when the measurement is void.
    pub(super) fn marker(&self, x: f64, y: f64, color: RGBColor, hollow: bool) -> Result<(), PlotError> {
        let style = if hollow { color.stroke_width(2) } else { color.filled() };
        Ok(self.area.draw(&Circle::new(self.pixel(x, y), 5, style))?)
    }

    /// Names the line that ends at (`x`, `y`).
    pub(super) fn name(&mut self, (x, y): (f64, f64), name: impl Into<String>, note: String, color: RGBColor) {
        self.labels.push(EndLabel { anchor: self.pixel(x, y), name: name.into(), note, color });
    }

    /// Writes the names.
    pub(super) fn finish(self) -> Result<(), PlotError> {
        draw_end_labels(self.area, &self.labels, self.right + LABEL_GAP, (TOP - 6, self.bottom + BOTTOM - 6))
    }
}
