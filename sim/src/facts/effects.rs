//! The committed log as a witness: which operations of the clients it has carried out, and in which order.

use lockstep_proto::request::Request;

use super::{Facts, header_of};
use crate::groups::Carried;

impl Facts {
    /// Everything that the committed log has carried out, in its order: what was asked for again and not carried out
    /// again is not among it.
    ///
    /// # Errors
    ///
    /// If an op has not the requests that its primary was asked for.
    pub fn carried_out(&self) -> Result<Vec<Carried<'_>>, String> {
        let mut carried = Vec::with_capacity(self.model.effects().len());
        let (mut of_op, mut requests, mut asked) = (0, Vec::new(), None);
        for effect in self.model.effects() {
            if effect.op != of_op {
                let prepare = (effect.op, self.committed[effect.op as usize - 1]);
                requests = requests_of(&self.prepares[&prepare]);
                asked = self.asked.get(&prepare);
                of_op = effect.op;
            }
            if let Some(asked) = asked.filter(|asked| asked.len() != requests.len()) {
                let (has, were) = (requests.len(), asked.len());
                return Err(format!("op {of_op} has {has} requests, but its primary was asked for {were}"));
            }
            carried.push(Carried {
                request: requests[effect.index],
                asked: asked.and_then(|asked| asked[effect.index]),
                revision: effect.revision,
                time_ns: effect.time_ns,
            });
        }
        Ok(carried)
    }
}

fn requests_of(message: &[u8]) -> Vec<Request<'_>> {
    let header = header_of(message);
    let mut rest = &message[lockstep_proto::message::MessageHeader::SIZE..header.size.get() as usize];
    std::iter::from_fn(|| {
        let (request, after) = Request::parse_trusted(rest)?;
        rest = after;
        Some(request)
    })
    .collect()
}
