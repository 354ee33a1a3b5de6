import CLibc
import CProvider
import CVerbs
import Libc
import Synchronization

/// What is to be brought to the peer's memory, and what is on its way. Under the link's lock.
///
/// The memory has two parts. The first page holds the words by which the engine publishes; its bytes are kept as they were at
/// `push` and sent in the order of the pushes. The rest is data, sent from where it lies, always before the words: so whatever a word
/// publishes has been placed when the word is. Data alone waits for the next word, unless there is much of it.
struct Flow {
    static let words = 4096
    static let rangeLimit = 4
    static let noteLimit = 16
    /// Words of one push: the engine's fit, longer ones are cut.
    static let noteLength = 160
    /// Send queue, requests.
    static let depth: UInt32 = 128
    /// Receives that are posted at all times: one notification, one grant and one message can be on their way, no more.
    static let receives: UInt32 = 8
    /// From so many bytes on, several batches may be on their way; fewer wait for the one before them, and grow meanwhile.
    static let large = 32 << 10
    static let batchLimit: UInt32 = 4

    /// Bits of an immediate. `bell`: look at your memory. `grant`: you may ring once more. `end`: I ring no more.
    static let bell: UInt32 = 1
    static let grant: UInt32 = 2
    static let end: UInt32 = 4

    struct Extent {
        var start = 0
        var end = 0
    }

    var ranges = InlineArray<4, Extent>(repeating: Extent())
    var rangeCount = 0
    /// The words' snapshots; their bytes are in the control area (Control.notes).
    var notes = InlineArray<16, Extent>(repeating: Extent())
    var noteCount = 0
    /// Requests posted and not known to be done.
    var used: UInt32 = 0
    /// Postings of data among them.
    var batches: UInt32 = 0
    /// The send queue's completions wake the worker.
    var isSendArmed = false
    /// The peer has granted a notification.
    var isGranted = true
    /// Words have been sent since the last notification.
    var owesBell = false
    /// The peer is to be granted its next notification.
    var owesGrant = false
    /// The peer is to be told that this end rings no more, after everything else.
    var owesEnd = false
    var isBroken = false

    @inline(__always) var hasData: Bool { rangeCount > 0 || noteCount > 0 }
    @inline(__always) var hasSignal: Bool { owesGrant || (owesBell && isGranted) || (owesEnd && !hasData) }
    /// Nothing is waiting, nothing is on its way.
    var isIdle: Bool { !hasData && used == 0 }

    var pendingBytes: Int {
        var total = 0
        for i in 0..<rangeCount { total &+= ranges[i].end &- ranges[i].start }
        return total
    }

    /// Adds data. Bytes of this end's copy that nothing has published yet may be sent at any time, so ranges may be joined
    /// across what lies between them.
    mutating func add(_ start: Int, _ end: Int) {
        for i in 0..<rangeCount where start <= ranges[i].end && end >= ranges[i].start {
            ranges[i] = Extent(start: min(start, ranges[i].start), end: max(end, ranges[i].end))
            return
        }
        if rangeCount < Self.rangeLimit {
            ranges[rangeCount] = Extent(start: start, end: end)
            rangeCount &+= 1
            return
        }
        var nearest = 0
        var distance = Int.max
        for i in 0..<rangeCount {
            let gap = start > ranges[i].end ? start &- ranges[i].end : ranges[i].start &- end
            if gap < distance { (nearest, distance) = (i, gap) }
        }
        ranges[nearest] = Extent(start: min(start, ranges[nearest].start), end: max(end, ranges[nearest].end))
    }

    /// The place for the snapshot of some words: the last one if it is of the same words, or a new one. When there is none left, an older
    /// snapshot of these words takes the new bytes; -1: there is no such either.
    mutating func note(_ start: Int, _ end: Int) -> Int {
        if noteCount > 0, notes[noteCount &- 1].start == start, notes[noteCount &- 1].end == end {
            return noteCount &- 1
        }
        if noteCount < Self.noteLimit {
            notes[noteCount] = Extent(start: start, end: end)
            noteCount &+= 1
            return noteCount &- 1
        }
        for i in 0..<noteCount where notes[i].start == start && notes[i].end == end { return i }
        return -1
    }
}

/// One page of each link: messages on their way out and in, and snapshots of words.
enum Control {
    static let length = 8192
    static let outgoing = 0
    static let slot = 256
    static let incoming = 1024
    static let notes = 4096
}

extension UnsafeMutablePointer where Pointee == Link {
    /// Brings bytes of this end's copy to the peer. Any thread; never waits for the peer.
    func push(_ offset: Int, _ length: Int) -> CInt {
        guard !Rdma.isForeign else { return -EPIPE }
        // A signal handler that interrupted a push of its own thread: that push goes on afterwards, and looks here.
        if pointee.lock.isMine {
            pointee.deferred.wrappingAdd(1, ordering: .relaxed)
            return 0
        }
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        guard pointee.phase.load(ordering: .relaxed) == Link.Phase.established, !pointee.flow.isBroken else {
            return -EPIPE
        }
        let limit = min(pointee.copy.length, Int(truncatingIfNeeded: pointee.remote.length))
        guard offset >= 0, length > 0, offset <= limit, length <= limit &- offset else { return -EINVAL }
        if offset >= Flow.words {
            pointee.flow.add(offset, offset &+ length)
            if pointee.flow.pendingBytes >= 2 &* Flow.large { flush() }
        } else {
            note(offset, length)
            flush()
        }
        while pointee.deferred.exchange(0, ordering: .relaxed) != 0 {
            // What the handler pushed is not known: everything that it can have been.
            pointee.flow.add(Flow.words, limit)
            note(0, min(limit, Flow.noteLength &* 2))
            flush()
        }
        return pointee.flow.isBroken ? -EPIPE : 0
    }

    /// This end rings no more.
    func finishRinging() -> CInt {
        guard !Rdma.isForeign, !pointee.lock.isMine else { return -EPIPE }
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        guard pointee.phase.load(ordering: .relaxed) == Link.Phase.established else { return -EPIPE }
        pointee.flow.owesEnd = true
        flush()
        return 0
    }

    /// Keeps words as they are now.
    private func note(_ offset: Int, _ length: Int) {
        guard let copy = pointee.copy.address, let control = pointee.control.address else { return }
        var at = offset
        let end = offset &+ length
        while at < end {
            let next = min(end, at &+ Flow.noteLength)
            let place = pointee.flow.note(at, next)
            if place < 0 { return pointee.flow.add(at, end) }
            copyWords(control + (Control.notes &+ place &* Flow.noteLength), copy + at, next &- at)
            at = next
        }
    }

    /// Other threads may store to words beside: each is read once, whole.
    private func copyWords(_ to: UnsafeMutableRawPointer, _ from: UnsafeMutableRawPointer, _ length: Int) {
        var at = 0
        while at &+ 8 <= length, UInt(bitPattern: from) & 7 == 0 {
            let word = (from + at).assumingMemoryBound(to: Atomic<UInt64>.self).pointee.load(ordering: .relaxed)
            to.storeBytes(of: word, toByteOffset: at, as: UInt64.self)
            at &+= 8
        }
        if at < length { memcpy(to + at, from + at, length &- at) }
    }

    /// Sends what may leave now; the rest leaves by completions. With the lock.
    func flush() {
        reap()
        while pointee.flow.hasData || pointee.flow.hasSignal, !pointee.flow.isBroken {
            if mayPost {
                post()
            } else if pointee.flow.isSendArmed {
                return
            } else {
                pointee.flow.isSendArmed = true
                _ = verbs_arm(pointee.queues.send_completions)
                reap()
                if !mayPost { return }
            }
        }
        // A link that is to be closed waits for its last completion.
        if pointee.wantsClose.load(ordering: .relaxed) != 0, pointee.flow.used > 0, !pointee.flow.isSendArmed {
            pointee.flow.isSendArmed = true
            _ = verbs_arm(pointee.queues.send_completions)
            reap()
        }
    }

    private var mayPost: Bool {
        guard pointee.flow.used &+ UInt32(VERBS_BATCH) <= Flow.depth else { return false }
        return pointee.flow.hasSignal || pointee.flow.batches == 0
            || (pointee.flow.pendingBytes >= Flow.large && pointee.flow.batches < Flow.batchLimit)
    }

    /// Takes the send queue's completions. Every posting has one, which counts its requests.
    func reap() {
        guard pointee.queues.pair != nil else { return }
        withUnsafeTemporaryAllocation(of: verbs_completion.self, capacity: 16) { done in
            while true {
                let count = verbs_poll(pointee.queues.send_completions, done.baseAddress, 16)
                for i in 0..<max(0, Int(count)) {
                    if done[i].failed != 0 { pointee.flow.isBroken = true }
                    let requests = UInt32(truncatingIfNeeded: done[i].id)
                    pointee.flow.used &-= min(requests, pointee.flow.used)
                    if done[i].id >> 32 != 0, pointee.flow.batches > 0 { pointee.flow.batches &-= 1 }
                }
                if count < 16 { break }
            }
        }
        if pointee.flow.isBroken { Worker.queue(self) }
    }

    /// Posts everything that is pending: data, then words, the last of them as the notification if one is granted.
    private func post() {
        withUnsafeTemporaryAllocation(of: verbs_request.self, capacity: Int(VERBS_BATCH)) { requests in
            var count = 0
            let isData = pointee.flow.hasData
            let mayAdd = pointee.flow.batches == 0 || pointee.flow.pendingBytes >= Flow.large
            var hasWords = false
            if isData, mayAdd {
                for i in 0..<pointee.flow.rangeCount {
                    let range = pointee.flow.ranges[i]
                    requests[count] = write(
                        pointee.copy.word &+ UInt64(range.start), range, pointee.copy.region.local_key)
                    count &+= 1
                }
                for i in 0..<pointee.flow.noteCount {
                    let from = pointee.control.word &+ UInt64(Control.notes &+ i &* Flow.noteLength)
                    requests[count] = write(from, pointee.flow.notes[i], pointee.control.region.local_key)
                    count &+= 1
                }
                hasWords = pointee.flow.noteCount > 0
                pointee.flow.rangeCount = 0
                pointee.flow.noteCount = 0
            }
            let isBatch = count > 0
            let immediate = signal(hasWords)
            if immediate != 0 {
                if count == 0 {
                    requests[0] = verbs_request()
                    requests[0].remote = pointee.remote.address
                    requests[0].remote_key = pointee.remote.key
                    count = 1
                }
                requests[count &- 1].kind = UInt32(VERBS_NOTIFY)
                requests[count &- 1].immediate = immediate.bigEndian
            }
            submit(requests.baseAddress.unsafelyUnwrapped, count, isBatch)
        }
    }

    /// The immediate of a posting that ends with words, or of one of its own; 0: none.
    private func signal(_ hasWords: Bool) -> UInt32 {
        var immediate: UInt32 = 0
        if hasWords { pointee.flow.owesBell = true }
        if pointee.flow.owesBell, pointee.flow.isGranted {
            pointee.flow.owesBell = false
            pointee.flow.isGranted = false
            immediate |= Flow.bell
        }
        if pointee.flow.owesGrant {
            pointee.flow.owesGrant = false
            immediate |= Flow.grant
        }
        if pointee.flow.owesEnd, !pointee.flow.hasData {
            pointee.flow.owesEnd = false
            immediate |= Flow.end
        }
        return immediate
    }

    private func write(_ from: UInt64, _ extent: Flow.Extent, _ key: UInt32) -> verbs_request {
        var request = verbs_request()
        request.local = from
        request.remote = pointee.remote.address &+ UInt64(extent.start)
        request.length = UInt32(truncatingIfNeeded: extent.end &- extent.start)
        request.local_key = key
        request.remote_key = pointee.remote.key
        // Words always are: they must leave as they are now.
        request.is_inline = UInt64(request.length) <= pointee.queues.inline_limit ? 1 : 0
        return request
    }

    func submit(_ requests: UnsafeMutablePointer<verbs_request>, _ count: Int, _ isBatch: Bool) {
        guard count > 0 else { return }
        requests[count &- 1].is_signaled = 1
        requests[count &- 1].id = UInt64(count) | (isBatch ? 1 << 32 : 0)
        pointee.flow.used &+= UInt32(truncatingIfNeeded: count)
        if isBatch { pointee.flow.batches &+= 1 }
        if verbs_post(&pointee.queues, requests, count) != 0 {
            pointee.flow.isBroken = true
            Worker.queue(self)
        }
    }
}
