import CLibc
import SessionState
import Synchronization
import Testing
import Wire

@testable import Switch

@Suite struct RingTests {
    static func ring(_ capacity: Int, _ body: (Ring, UnsafeMutableRawPointer) -> Void) {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: Limits.exposed(UInt64(capacity)), alignment: 64)
        defer { memory.deallocate() }
        body(
            Ring(memory.assumingMemoryBound(to: Inbox.self), isLarge: true, large: UInt64(capacity)),
            memory + Limits.inboxHeader + Int(Limits.smallRing))
    }

    @Test func withBytes_isOneRunBeforeTheEnd() {
        Self.ring(64) { ring, base in
            ring.withBytes(at: 128 + 60, count: 4) { first, firstCount, _, secondCount in
                #expect(first == base + 60 && firstCount == 4 && secondCount == 0)
            }
        }
    }

    @Test func withBytes_wrapsAtTheEnd() {
        Self.ring(64) { ring, base in
            ring.withBytes(at: 60, count: 10) { first, firstCount, second, secondCount in
                #expect(first == base + 60 && firstCount == 4 && second == base && secondCount == 6)
            }
        }
    }

    /// The peers of a session may be different builds: the layout of what they share is part of the protocol.
    @Test func inbox_layoutIsFixed() {
        #expect(MemoryLayout<Inbox>.size <= Limits.inboxHeader)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { memory.deallocate() }
        memset(memory, 0, 4096)
        let inbox = memory.assumingMemoryBound(to: Inbox.self)
        inbox.pointee.produced.store(1, ordering: .relaxed)
        inbox.pointee.over.store(2, ordering: .relaxed)
        inbox.pointee.back.store(3, ordering: .relaxed)
        inbox.pointee.shape.store(4, ordering: .relaxed)
        inbox.pointee.finished.store(5, ordering: .relaxed)
        inbox.pointee.consumed.store(6, ordering: .relaxed)
        inbox.pointee.accepted.store(7, ordering: .relaxed)
        inbox.pointee.wish.store(8, ordering: .relaxed)
        inbox.pointee.receiverAsleep.store(9, ordering: .relaxed)
        inbox.pointee.senderAsleep.store(10, ordering: .relaxed)
        let words = [(0, 1), (8, 2), (16, 3), (24, 4), (128, 6), (136, 7), (144, 8)]
        for (place, value) in words { #expect(memory.load(fromByteOffset: place, as: UInt64.self) == UInt64(value)) }
        let flags = [(32, 5), (152, 9), (256, 10)]
        for (place, value) in flags { #expect(memory.load(fromByteOffset: place, as: UInt32.self) == UInt32(value)) }
        #expect(Inbox.senderWords == 0..<40 && Inbox.receiverWords == 128..<152)
    }

    @Test func sessionState_layoutIsWhatTheLocksRelyOn() {
        #expect(MemoryLayout<SessionState>.size <= SessionState.stride)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: SessionState.stride, alignment: 64)
        defer { memory.deallocate() }
        let state = memory.assumingMemoryBound(to: SessionState.self)
        state.initialize(to: SessionState(role: 1))
        state.pointee.send.lock.store(0x1111, ordering: .relaxed)
        state.pointee.receive.lock.store(0x2222, ordering: .relaxed)
        #expect(memory.load(fromByteOffset: SessionLayout.send, as: UInt32.self) == 0x1111)
        #expect(memory.load(fromByteOffset: SessionLayout.receive, as: UInt32.self) == 0x2222)
    }
}

@Suite struct SharedLockTests {
    @Test func lock_excludesThreads() async {
        let word = UnsafeMutablePointer<Atomic<UInt32>>.allocate(capacity: 1)
        word.initialize(to: Atomic(0))
        nonisolated(unsafe) let lock = SharedLock(word: word)
        nonisolated(unsafe) let counter = UnsafeMutablePointer<Int>.allocate(capacity: 1)
        counter.initialize(to: 0)
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    for _ in 0..<20_000 {
                        lock.lock()
                        counter.pointee += 1
                        lock.unlock()
                    }
                }
            }
        }
        #expect(counter.pointee == 80_000)
        counter.deallocate()
        word.deallocate()
    }

    /// An owner that was killed inside the lock must not stop the others.
    @Test func lock_replacesADeadOwner() {
        let word = UnsafeMutablePointer<Atomic<UInt32>>.allocate(capacity: 1)
        let dead: UInt32 = 0x3fff_fff0  // above any pid_max
        word.initialize(to: Atomic(dead))
        SharedLock(word: word).lock()
        #expect(word.pointee.load(ordering: .relaxed) & ~SharedLock.waiters == libc_thread_id())
        word.deallocate()
    }
}

@Suite struct VectorsTests {
    @Test func advance_crossesVectorsAndEmptyOnes() {
        var bytes = [UInt8](0..<10)
        bytes.withUnsafeMutableBytes { buffer in
            let base = buffer.baseAddress!
            let list = [
                iovec(iov_base: base, iov_len: 3), iovec(iov_base: nil, iov_len: 0),
                iovec(iov_base: base + 3, iov_len: 7),
            ]
            list.withUnsafeBufferPointer { list in
                var vectors = Vectors(list.baseAddress!, count: 3)!
                vectors.advance(2)
                var seen: [UInt8] = []
                vectors.forEachRun(5) { address, count in
                    seen += UnsafeRawBufferPointer(start: address, count: count)
                }
                #expect(seen == [2, 3, 4, 5, 6] && vectors.remaining == 8)
                vectors.advance(8)
                #expect(vectors.remaining == 0)
            }
        }
    }

    @Test func init_refusesLengthsThatOverflow() {
        let list = [iovec(iov_base: nil, iov_len: Int.max), iovec(iov_base: nil, iov_len: 1)]
        list.withUnsafeBufferPointer { #expect(Vectors($0.baseAddress!, count: 2) == nil) }
    }
}

@Suite(.serialized) struct KnownMemoryTests {
    @Test func isValid_knowsMappedFromUnmapped() {
        let size = 4 * 4096
        let memory = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        #expect(KnownMemory.isValid(memory, size, forWriting: true))
        mprotect(memory + 4096, 4096, PROT_READ)
        KnownMemory.forget()
        #expect(KnownMemory.isValid(memory, size, forWriting: false))
        #expect(!KnownMemory.isValid(memory, size, forWriting: true))
        #expect(KnownMemory.isValid(memory, 4096, forWriting: true))
        munmap(memory, size)
        KnownMemory.forget()
        #expect(!KnownMemory.isValid(memory, 1, forWriting: false))
        #expect(!KnownMemory.isValid(UnsafeMutableRawPointer(bitPattern: 8)!, 1, forWriting: false))
    }
}
