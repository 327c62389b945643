//! Names of lines, written beside their right ends: a reader need not match colours with a legend.

use plotters::prelude::*;

use super::PlotError;
use super::style::{INK, bold, left, text};

/// The name of a line.
#[derive(Debug, Clone)]
pub(super) struct EndLabel {
    /// Where the line ends, in pixels.
    pub(super) anchor: (i32, i32),
    /// Its name.
    pub(super) name: String,
    /// A second, smaller line of text; may be empty.
    pub(super) note: String,
    /// The line's colour.
    pub(super) color: RGBColor,
}

const NAME_PX: f64 = 13.0;
const NOTE_PX: f64 = 11.5;
const NAME_HEIGHT: i32 = 16;
const NOTE_HEIGHT: i32 = 15;
const GAP: i32 = 4;

impl EndLabel {
    fn height(&self) -> i32 {
        if self.note.is_empty() { NAME_HEIGHT } else { NAME_HEIGHT + NOTE_HEIGHT }
    }
}

/// Draws all labels at `x`, moved apart where they would overlap, between `top` and `bottom`. A thin line leads from
/// the end of the line to a label that had to move.
pub(super) fn draw_end_labels(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    labels: &[EndLabel],
    x: i32,
    (top, bottom): (i32, i32),
) -> Result<(), PlotError> {
    let wanted: Vec<_> = labels.iter().map(|label| (label.anchor.1, label.height() + GAP)).collect();
    for (label, middle) in labels.iter().zip(spread(&wanted, top, bottom)) {
        let lead = [(label.anchor.0 + 7, label.anchor.1), (x - 4, middle)];
        area.draw(&PathElement::new(lead, label.color.mix(0.6).stroke_width(1)))?;
        let name_y = if label.note.is_empty() { middle } else { middle - NOTE_HEIGHT / 2 };
        area.draw(&Text::new(label.name.clone(), (x, name_y), left(bold(NAME_PX, label.color))))?;
        if !label.note.is_empty() {
            let note_y = name_y + NAME_HEIGHT;
            area.draw(&Text::new(label.note.clone(), (x, note_y), left(text(NOTE_PX, INK))))?;
        }
    }
    Ok(())
}

/// Middles for boxes of (wanted middle, height) such that none overlaps another and, as far as they fit, all are
/// between `top` and `bottom`; the order of the wanted middles is kept.
fn spread(wanted: &[(i32, i32)], top: i32, bottom: i32) -> Vec<i32> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&index| wanted[index].0);
    let mut middles = vec![0; wanted.len()];
    let mut free_from = top;
    for &index in &order {
        let (middle, height) = wanted[index];
        middles[index] = middle.max(free_from + height / 2);
        free_from = middles[index] + height - height / 2;
    }
    // What ran over the bottom pushes everything above it up again.
    let mut free_to = bottom;
    for &index in order.iter().rev() {
        let height = wanted[index].1;
        middles[index] = middles[index].min(free_to - (height - height / 2));
        free_to = middles[index] - height / 2;
    }
    middles
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_that_do_not_overlap_stay_where_they_are() {
        assert_eq!(spread(&[(100, 20), (50, 20)], 0, 200), [100, 50]);
    }

    #[test]
    fn labels_at_the_same_height_move_apart() {
        assert_eq!(spread(&[(100, 20), (100, 20), (100, 20)], 0, 200), [100, 120, 140]);
    }

    #[test]
    fn labels_at_the_bottom_move_up() {
        assert_eq!(spread(&[(195, 20), (195, 20)], 0, 200), [170, 190]);
    }

    proptest! {
        #[test]
        fn no_two_labels_overlap_and_all_are_inside(
            wanted in proptest::collection::vec((0i32..400, 10i32..40), 1..8),
        ) {
            let middles = spread(&wanted, 0, 400);
            let mut boxes: Vec<_> = middles
                .iter()
                .zip(&wanted)
                .map(|(&middle, &(_, height))| (middle - height / 2, middle + height - height / 2))
                .collect();
            boxes.sort_unstable();
            prop_assert!(boxes.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{:?}", boxes);
            prop_assert!(boxes.iter().all(|&(from, to)| from >= 0 && to <= 400), "{:?}", boxes);
        }
    }
}
