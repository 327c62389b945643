//! A straight line through points.

/// The least-squares line `y = intercept + slope * x`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LinearFit {
    /// Growth of y per unit of x.
    pub slope: f64,
    /// The value at x = 0.
    pub intercept: f64,
    /// The share of y's variation that the line explains, from 0 to 1; 1 when y does not vary at all.
    pub r_squared: f64,
}

impl LinearFit {
    /// The line through `points`; `None` with fewer than three points (two are always on a line) or when all have the
    /// same x.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        if points.len() < 3 {
            return None;
        }
        let count = points.len() as f64;
        let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
        let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
        let sum =
            |term: &dyn Fn(f64, f64) -> f64| points.iter().map(|&(x, y)| term(x - mean_x, y - mean_y)).sum::<f64>();
        let spread_x = sum(&|x, _| x * x);
        if spread_x <= 0.0 {
            return None;
        }
        let slope = sum(&|x, y| x * y) / spread_x;
        let spread_y = sum(&|_, y| y * y);
        let unexplained = sum(&|x, y| (y - slope * x).powi(2));
        let r_squared = if spread_y > 0.0 { (1.0 - unexplained / spread_y).clamp(0.0, 1.0) } else { 1.0 };
        Some(Self { slope, intercept: mean_y - slope * mean_x, r_squared })
    }

    /// The line's y at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn points_on_a_line_give_that_line() {
        let fit = LinearFit::through(&[(1.0, 5.0), (2.0, 7.0), (3.0, 9.0), (5.0, 13.0)]).expect("four points");
        assert_eq!((fit.slope, fit.intercept, fit.r_squared), (2.0, 3.0, 1.0));
        assert_eq!(fit.at(10.0), 23.0);
    }

    #[test]
    fn scattered_points_give_the_known_answer() {
        // Worked by hand: means 3 and 4, sums of products 6 and squares 10, residual sum 2.4 of 6.
        let fit =
            LinearFit::through(&[(1.0, 2.0), (2.0, 4.0), (3.0, 5.0), (4.0, 4.0), (5.0, 5.0)]).expect("five points");
        assert!((fit.slope - 0.6).abs() < 1e-12 && (fit.intercept - 2.2).abs() < 1e-12);
        assert!((fit.r_squared - 0.6).abs() < 1e-12);
    }

    #[test]
    fn a_level_line_is_explained_and_a_cloud_is_not() {
        let level = LinearFit::through(&[(1.0, 4.0), (2.0, 4.0), (3.0, 4.0)]).expect("three points");
        assert_eq!((level.slope, level.r_squared), (0.0, 1.0));
        let hill = LinearFit::through(&[(1.0, 0.0), (2.0, 9.0), (3.0, 0.0)]).expect("three points");
        assert_eq!((hill.slope, hill.r_squared), (0.0, 0.0));
    }

    #[test]
    fn too_few_or_stacked_points_have_no_line() {
        assert_eq!(LinearFit::through(&[(1.0, 1.0), (2.0, 2.0)]), None);
        assert_eq!(LinearFit::through(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
    }

    proptest! {
        #[test]
        fn any_line_is_found_again(slope in -1e3f64..1e3, intercept in -1e3f64..1e3, count in 3usize..20) {
            let points: Vec<_> = (0..count).map(|x| (x as f64, intercept + slope * x as f64)).collect();
            let fit = LinearFit::through(&points).expect("enough points");
            prop_assert!((fit.slope - slope).abs() < 1e-6 && (fit.intercept - intercept).abs() < 1e-6);
        }
    }
}
