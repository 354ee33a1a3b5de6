import CProvider

/// Bringing words to the peer where its memory is not ours to write (san_direct_memory.push). On shared memory the store itself is enough.
extension UnsafeMutablePointer where Pointee == Session {
    /// The sender's words: produced, over, back, shape, finished.
    @inline(__always)
    func pushSender() { push(Inbox.senderWords) }

    /// The receiver's words: consumed, accepted, wish, receiverAsleep.
    @inline(__always)
    func pushReceiver() { push(Inbox.receiverWords) }

    /// `count` bytes put into the ring at `offset`, then the words that publish them.
    @inline(__always)
    func pushRing(at offset: UInt64, count: Int, _ shape: RingShape) {
        if pointee.provider.copies { pushRuns(offset, count, shape) }
    }

    @inline(never)
    private func pushRuns(_ offset: UInt64, _ count: Int, _ shape: RingShape) {
        guard let outbox = pointee.outbox else { return }
        let base = UnsafeMutableRawPointer(outbox)
        Ring(outbox, isLarge: shape.isLarge, large: pointee.outboxRing).withBytes(at: offset, count: count) {
            first, firstCount, second, secondCount in
            push(first - base..<first - base + firstCount)
            if secondCount > 0 { push(second - base..<second - base + secondCount) }
        }
        pushSender()
    }

    @inline(__always)
    private func push(_ words: Range<Int>) {
        if pointee.provider.copies { _ = pointee.provider.push(pointee.companion, words.lowerBound, words.count) }
    }
}
