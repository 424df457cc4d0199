//! Predictions by cluster of sticky keys. Counted where a router says of which cluster a request is, which it does while revisions are
//! compared: for all other traffic nothing is kept. In memory, of a cluster that was seen, 8 bytes a bin: some 70 KB a lane for an output of
//! 21 bins, 105 KB for a number.

use std::collections::BTreeMap;

use millrace_contract::traffic::CLUSTERS;
use millrace_profile::predictions::Part;

/// Where the parts of all predictions lie among the bins of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    places: Vec<Place>,
    width: usize,
}

#[derive(Debug)]
struct Place {
    /// Index of the prediction.
    prediction: usize,
    part: Part,
    name: String,
    first: usize,
    size: usize,
}

/// By cluster, counts over the bins of all parts; no bins before its first request.
#[derive(Debug, Default)]
pub(crate) struct Clusters(Vec<Vec<u64>>);

impl Clusters {
    /// Adds what another lane has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for (cluster, bins) in other.0.iter().enumerate().filter(|(_, bins)| !bins.is_empty()) {
            for (sum, count) in self.bins(cluster, bins.len()).iter_mut().zip(bins) {
                *sum += count;
            }
        }
    }

    fn bins(&mut self, cluster: usize, width: usize) -> &mut [u64] {
        if self.0.len() <= cluster {
            self.0.resize(cluster + 1, Vec::new());
        }
        let bins = &mut self.0[cluster];
        if bins.is_empty() {
            bins.resize(width, 0);
        }
        bins
    }
}

impl Layout {
    /// For predictions of these names and numbers of bins.
    pub(crate) fn new<'a>(predictions: impl Iterator<Item = (&'a str, usize)>) -> Self {
        let mut layout = Self::default();
        for (prediction, (name, bins)) in predictions.enumerate() {
            for part in Part::of(bins) {
                let (first, size) = (layout.width, part.size(bins));
                layout.places.push(Place { prediction, part: *part, name: part.name(name, bins), first, size });
                layout.width += size;
            }
        }
        layout
    }

    /// Counts this bin of a prediction.
    pub(crate) fn count(&self, clusters: &mut Clusters, cluster: u16, prediction: usize, bin: usize) {
        if u32::from(cluster) >= CLUSTERS {
            return;
        }
        let bins = clusters.bins(usize::from(cluster), self.width);
        for place in self.places.iter().filter(|place| place.prediction == prediction) {
            if let Some(count) = bins.get_mut(place.first + place.part.bin(bin)) {
                *count += 1;
            }
        }
    }

    /// By part and cluster, without empty bins at the end.
    pub(crate) fn by_part(&self, clusters: &Clusters) -> BTreeMap<String, BTreeMap<u32, Vec<u64>>> {
        let of_place = |place: &Place| {
            let counted = (0..).zip(&clusters.0).filter_map(|(cluster, bins)| Some((cluster, place.counted(bins)?)));
            (place.name.clone(), counted.collect::<BTreeMap<u32, Vec<u64>>>())
        };
        self.places.iter().map(of_place).filter(|(_, clusters)| !clusters.is_empty()).collect()
    }
}

impl Place {
    fn counted(&self, bins: &[u64]) -> Option<Vec<u64>> {
        let own = bins.get(self.first..self.first + self.size)?;
        let last = own.iter().rposition(|count| *count > 0)?;
        own.get(..=last).map(<[u64]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lanes_have_counted_is_told_by_part_and_cluster() {
        let layout = Layout::new([("label", 4), ("value", 244)].into_iter());
        let mut lanes = [Clusters::default(), Clusters::default()];
        for (lane, cluster, label, value) in [(0, 7, 1, 17), (1, 7, 1, 17), (1, 9, 0, 243), (0, 400, 1, 1)] {
            layout.count(&mut lanes[lane], cluster, 0, label);
            layout.count(&mut lanes[lane], cluster, 1, value);
        }
        let mut all = Clusters::default();
        lanes.iter().for_each(|lane| all.add(lane));
        let last = |at: usize| [vec![0; at], vec![1]].concat();
        let expected = [
            ("label/4", [(7, vec![0, 2]), (9, vec![1])]),
            ("value/244/fine", [(7, vec![0, 2]), (9, last(3))]),
            ("value/244/coarse", [(7, vec![0, 2]), (9, last(15))]),
        ];
        let expected = expected.map(|(part, clusters)| (part.to_owned(), BTreeMap::from(clusters)));
        assert_eq!(layout.by_part(&all), BTreeMap::from(expected));
    }

    #[test]
    fn without_a_cluster_nothing_is_kept() {
        let layout = Layout::new([("label", 4)].into_iter());
        let clusters = Clusters::default();
        assert!(layout.by_part(&clusters).is_empty() && clusters.0.capacity() == 0);
    }
}
