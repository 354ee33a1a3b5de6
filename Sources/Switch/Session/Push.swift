import CProvider
import Libc
import Synchronization
import Wire

/// Bringing words to the peer where its memory is not ours to write (san_direct_memory.push). On shared memory the store itself is enough.
extension UnsafeMutablePointer where Pointee == Session {
    /// The sender's words: produced, over, back, shape, finished; and the receiver's with them, if the peer has not seen them.
    @inline(__always)
    func pushSender() {
        guard pointee.provider.copies else { return }
        isCreditShown ? push(Inbox.senderWords) : pushBoth()
    }

    /// The receiver's words: consumed, accepted, wish.
    @inline(__always)
    func pushReceiver() {
        guard pointee.provider.copies else { return }
        showCredit()
        push(Inbox.receiverWords)
    }

    @inline(never)
    private func pushBoth() {
        showCredit()
        push(Inbox.senderWords.lowerBound..<Inbox.receiverWords.upperBound)
    }

    /// The receiver has taken bytes. The peer hears of it with what is sent to it next, at the latest when a quarter of a ring is
    /// free or the receiver is about to sleep: a push of its own for each call would wake the peer for nothing.
    @inline(__always)
    func pushCredit(_ offset: UInt64) {
        guard pointee.provider.copies, let inbox = pointee.inbox else { return }
        let isLarge = RingShape(word: inbox.pointee.shape.load(ordering: .relaxed)).isLarge
        let hidden = offset &- pointee.creditShown.load(ordering: .relaxed)
        if hidden >= (isLarge ? pointee.inboxRing : Limits.smallRing) / 4 { pushReceiver() }
    }

    /// Before a sleep: the peer's doorbell is wanted again, and what it has not been told it may wait for.
    @inline(__always)
    func pushBeforeSleep() { if pointee.provider.copies { isCreditShown ? push(0..<0) : pushReceiver() } }

    private var isCreditShown: Bool {
        pointee.creditShown.load(ordering: .relaxed) == pointee.outbox?.pointee.consumed.load(ordering: .relaxed)
    }

    private func showCredit() {
        guard let outbox = pointee.outbox else { return }
        pointee.creditShown.store(outbox.pointee.consumed.load(ordering: .relaxed), ordering: .relaxed)
    }

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
