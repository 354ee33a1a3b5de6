/// The sessions of a set that were lately ready, as a list that is looked at in user space. With the set's lock held.
extension UnsafeMutablePointer where Pointee == EpollSet {
    func heat(_ interest: InterestRef) {
        interest.pointee.misses = 0
        guard !interest.pointee.isHot else { return }
        interest.pointee.isHot = true
        interest.pointee.isArmed = false
        pointee.hotIsNew = true
        interest.pointee.previousHot = nil
        interest.pointee.nextHot = pointee.hot
        pointee.hot?.pointee.previousHot = interest
        pointee.hot = interest
    }

    /// Turns the list, so that a call with few places does not report the same sessions for ever.
    func startWith(_ interest: InterestRef) {
        guard let first = pointee.hot, first != interest, let before = interest.pointee.previousHot else { return }
        var last = interest
        while let next = last.pointee.nextHot { last = next }
        before.pointee.nextHot = nil
        interest.pointee.previousHot = nil
        last.pointee.nextHot = first
        first.pointee.previousHot = last
        pointee.hot = interest
    }

    func cool(_ interest: InterestRef) {
        guard interest.pointee.isHot else { return }
        interest.pointee.isHot = false
        interest.pointee.nextHot?.pointee.previousHot = interest.pointee.previousHot
        if let previous = interest.pointee.previousHot {
            previous.pointee.nextHot = interest.pointee.nextHot
        } else {
            pointee.hot = interest.pointee.nextHot
        }
        interest.pointee.nextHot = nil
        interest.pointee.previousHot = nil
    }
}
