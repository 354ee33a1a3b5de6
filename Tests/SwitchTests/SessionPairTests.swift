import CLibc
import SessionState
import Testing

@testable import Switch

/// A TCP connection of this process with itself, through the switch's own entries (the test process is not interposed), brought
/// to the companion path in both directions.
struct SessionPair {
    let client: CInt
    let server: CInt
    /// As in a process: once.
    private static let started: Void = switch_start()

    init(switched: Bool = true) throws {
        _ = Self.started
        settings.afterCalls = switched ? 2 : .max
        settings.afterBytes = .max
        let listening = switch_socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { address -> CInt in
                guard switch_bind(listening, address, length) == 0, switch_listen(listening, 8) == 0 else { return -1 }
                return real_getsockname(listening, address, &length)
            }
        }
        try #require(bound == 0)
        let connecting = switch_socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        client = connecting
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { switch_connect(connecting, $0, length) }
        }
        try #require(connected == 0)
        server = switch_accept(listening, nil, nil)
        _ = switch_close(listening)
        if switched { try talkUntilSwitched() }
    }

    func session(_ fd: CInt) -> SessionRef? { DescriptorTable.slot(fd).session }

    /// One byte each way until both directions travel on the companion.
    private func talkUntilSwitched() throws {
        for _ in 0..<10_000 {
            var byte: UInt8 = 7
            try #require(switch_send(client, &byte, 1, 0) == 1 && switch_recv(server, &byte, 1, 0) == 1)
            try #require(switch_send(server, &byte, 1, 0) == 1 && switch_recv(client, &byte, 1, 0) == 1)
            if let a = session(client), let b = session(server), a.receivesOnCompanion, a.sendsOnCompanion,
                b.receivesOnCompanion, b.sendsOnCompanion
            {
                return
            }
        }
        Issue.record("never switched over")
    }

    func close() {
        _ = switch_close(client)
        _ = switch_close(server)
    }
}

extension SwitchSuites {
    @Suite struct SessionPairTests {
        @Test func switchOver_isCountedExactly() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            let (client, server) = (
                try #require(pair.session(pair.client)).state, try #require(pair.session(pair.server)).state
            )
            #expect(
                client.pointee.send.switchOver.load(ordering: .relaxed)
                    == server.pointee.receive.switchOver.load(ordering: .relaxed))
            #expect(
                client.pointee.send.kernelBytes.load(ordering: .relaxed)
                    == client.pointee.send.switchOver.load(ordering: .relaxed))
            #expect(
                pair.session(pair.client)?.kernelBytesSent() == client.pointee.send.kernelBytes.load(ordering: .relaxed)
            )
        }

        @Test func send_stopsWhenTheRingIsFull() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            let block = [UInt8](repeating: 1, count: 1 << 20)
            var sent = 0
            while true {
                let count = switch_send(pair.client, block, block.count, CInt(MSG_DONTWAIT))
                if count < 0 { break }
                sent += count
            }
            #expect(libc_errno() == EAGAIN && sent > 0)
            var received = 0
            var buffer = [UInt8](repeating: 0, count: 1 << 16)
            while received < sent { received += switch_recv(pair.server, &buffer, buffer.count, 0) }
            #expect(received == sent && switch_recv(pair.server, &buffer, 1, CInt(MSG_DONTWAIT)) == -1)
        }

        @Test func receive_peekLeavesTheBytes() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            var out: [UInt8] = [1, 2, 3]
            var buffer = [UInt8](repeating: 0, count: 8)
            #expect(switch_send(pair.client, &out, 3, 0) == 3)
            #expect(switch_recv(pair.server, &buffer, 8, CInt(MSG_PEEK)) == 3 && buffer[2] == 3)
            #expect(switch_recv(pair.server, &buffer, 8, 0) == 3)
        }

        @Test func send_badPointerIsEFAULT() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            #expect(switch_send(pair.client, UnsafeRawPointer(bitPattern: 16), 4, 0) == -1 && libc_errno() == EFAULT)
            var byte: UInt8 = 9
            #expect(switch_send(pair.client, &byte, 1, 0) == 1)
            #expect(
                switch_recv(pair.server, UnsafeMutableRawPointer(bitPattern: 16), 4, 0) == -1 && libc_errno() == EFAULT)
            #expect(switch_recv(pair.server, &byte, 1, 0) == 1 && byte == 9)
        }

        @Test func close_bytesArriveBeforeTheEnd() throws {
            let pair = try SessionPair()
            var out = [UInt8](repeating: 5, count: 1000)
            #expect(switch_send(pair.client, &out, 1000, 0) == 1000)
            _ = switch_close(pair.client)
            var buffer = [UInt8](repeating: 0, count: 4096)
            #expect(switch_recv(pair.server, &buffer, 4096, 0) == 1000)
            #expect(switch_recv(pair.server, &buffer, 4096, 0) == 0)
            _ = switch_close(pair.server)
        }

        @Test func leave_returnsToTCPAtTheOffset() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            var out: [UInt8] = [1, 2, 3, 4]
            #expect(switch_send(pair.client, &out, 2, 0) == 2)
            pair.session(pair.client)?.returnToKernel(.unsupportedOption)
            #expect(out.withUnsafeBytes { switch_send(pair.client, $0.baseAddress! + 2, 2, 0) } == 2)
            var buffer = [UInt8](repeating: 0, count: 8)
            #expect(switch_recv(pair.server, &buffer, 4, CInt(MSG_WAITALL)) == 4)
            #expect(Array(buffer[0..<4]) == [1, 2, 3, 4])
            #expect(pair.session(pair.client)?.sendsOnCompanion == false)
        }

        /// The receiver's wish is answered by the switch thread: nobody calls send meanwhile. The bytes come again by TCP.
        @Test func wish_bringsUnreadBytesToTCP() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            var out: [UInt8] = [1, 2, 3, 4]
            #expect(switch_send(pair.client, &out, 2, 0) == 2)
            pair.session(pair.server)?.leaveReceiving(.unsupportedOption)
            let server = try #require(pair.session(pair.server))
            #expect(!server.receivesOnCompanion && server.kernelBytesReceived() == server.state.pointee.receive.kernelBytes.load(ordering: .relaxed))
            let expected = server.state.pointee.receive.kernelBytes.load(ordering: .relaxed) + 2
            for _ in 0..<1_000_000 where server.bytesArrived() != expected { sched_yield() }
            #expect(server.bytesArrived() == expected)
            #expect(out.withUnsafeBytes { switch_send(pair.client, $0.baseAddress! + 2, 2, 0) } == 2)
            var buffer = [UInt8](repeating: 0, count: 8)
            #expect(switch_recv(pair.server, &buffer, 4, CInt(MSG_WAITALL)) == 4)
            #expect(Array(buffer[0..<4]) == [1, 2, 3, 4])
        }

        /// A receiver that has finished sending, and leaves the ring with bytes unread, is no peer that has died: nothing but those bytes comes.
        @Test func wish_afterTheReceiversOwnEnd() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            var out: [UInt8] = [1, 2, 3, 4]
            #expect(switch_shutdown(pair.server, CInt(SHUT_WR)) == 0)
            #expect(switch_send(pair.client, &out, 2, 0) == 2)
            pair.session(pair.server)?.leaveReceiving(.exec)
            #expect(out.withUnsafeBytes { switch_send(pair.client, $0.baseAddress! + 2, 2, 0) } == 2)
            #expect(switch_shutdown(pair.client, CInt(SHUT_WR)) == 0)
            var buffer = [UInt8](repeating: 0, count: 8)
            #expect(switch_recv(pair.server, &buffer, 8, CInt(MSG_WAITALL)) == 4)
            #expect(Array(buffer[0..<4]) == [1, 2, 3, 4])
        }

        /// Over and back, as often as one likes; every byte in its place.
        @Test func intervals_followEachOther() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            let client = try #require(pair.session(pair.client))
            var (sent, used) = (UInt8(0), client.state.pointee.send.intervals.load(ordering: .relaxed))
            for _ in 0..<5 {
                client.leaveSending(.unsupportedOption)
                client.state.pointee.send.quietUntil.store(0, ordering: .relaxed)
                for _ in 0..<1000 where client.state.pointee.send.intervals.load(ordering: .relaxed) == used {
                    var byte = sent
                    #expect(switch_send(pair.client, &byte, 1, 0) == 1)
                    var back: UInt8 = 0
                    #expect(switch_recv(pair.server, &back, 1, 0) == 1 && back == sent)
                    sent &+= 1
                }
                #expect(client.state.pointee.send.intervals.load(ordering: .relaxed) == used + 1 && client.sendsOnCompanion)
                used += 1
            }
            #expect(client.kernelBytesSent() == client.state.pointee.send.kernelBytes.load(ordering: .relaxed))
        }

        /// What the peer can write is hostile: a cursor that no honest peer writes ends the connection, not the process.
        @Test(arguments: [UInt64(1) << 40, 0, (UInt64(1) << 62)]) func receive_impossibleProducerCursor(cursor: UInt64)
            throws
        {
            let pair = try SessionPair()
            defer { pair.close() }
            pair.session(pair.server)?.pointee.inbox?.pointee.produced.store(cursor, ordering: .releasing)
            var buffer = [UInt8](repeating: 0, count: 64)
            // What lies behind is nothing new.
            let expected = cursor == 0 ? EAGAIN : ECONNRESET
            #expect(switch_recv(pair.server, &buffer, 64, CInt(MSG_DONTWAIT)) == -1 && libc_errno() == expected)
        }

        /// A shape that no honest peer writes gives wrong bytes at worst: the peer could have sent those too.
        @Test(arguments: [UInt64(0), 1, 3, 1 << 30, .max]) func receive_impossibleShape(shape: UInt64) throws {
            let pair = try SessionPair()
            defer { pair.close() }
            var bytes = [UInt8](repeating: 1, count: 3000)
            #expect(switch_send(pair.client, &bytes, bytes.count, 0) == bytes.count)
            pair.session(pair.server)?.pointee.inbox?.pointee.shape.store(shape, ordering: .releasing)
            var received = 0
            while received < bytes.count {
                let count = switch_recv(pair.server, &bytes, bytes.count, CInt(MSG_DONTWAIT))
                try #require(count > 0)
                received += count
            }
            #expect(received == bytes.count && switch_recv(pair.server, &bytes, 1, CInt(MSG_DONTWAIT)) == -1)
        }

        @Test func ring_growsWithoutBeingEmptyAndShrinksWhenIdle() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            let session = try #require(pair.session(pair.client))
            func shape() -> RingShape { RingShape(word: session.state.pointee.send.shape.load(ordering: .relaxed)) }
            #expect(!shape().isLarge)
            let bytes = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 &* 7 >> 2) }
            var sent = 0
            while sent < bytes.count {
                sent += bytes.withUnsafeBytes {
                    switch_send(pair.client, $0.baseAddress! + sent, min(3000, bytes.count - sent), 0)
                }
            }
            #expect(shape().isLarge)
            var back = [UInt8](repeating: 0, count: bytes.count)
            #expect(switch_recv(pair.server, &back, 10, 0) == 10)
            session.shrinkIfIdle()
            #expect(shape().isLarge, "bytes are still in the ring")
            #expect(
                back.withUnsafeMutableBytes {
                    switch_recv(pair.server, $0.baseAddress! + 10, bytes.count - 10, CInt(MSG_WAITALL))
                } == bytes.count - 10)
            #expect(back == bytes)
            session.shrinkIfIdle()
            #expect(!shape().isLarge)
            #expect(switch_send(pair.client, bytes, 5000, 0) == 5000)
            #expect(
                switch_recv(pair.server, &back, 5000, CInt(MSG_WAITALL)) == 5000
                    && Array(back[0..<5000]) == Array(bytes[0..<5000]))
        }

        @Test func threads_bothDirectionsAtOnce() async throws {
            let pair = try SessionPair()
            defer { pair.close() }
            let total = 8 << 20
            @Sendable func write(_ fd: CInt) {
                var block = [UInt8](repeating: 0, count: 70_001)
                var offset = 0
                while offset < total {
                    let count = min(block.count, total - offset)
                    for i in 0..<count { block[i] = UInt8(truncatingIfNeeded: (offset + i) &* 31 >> 3) }
                    let sent = switch_send(fd, block, count, 0)
                    if sent <= 0 { return }
                    offset += sent
                }
            }
            @Sendable func read(_ fd: CInt) -> Bool {
                var block = [UInt8](repeating: 0, count: 33_333)
                var offset = 0
                while offset < total {
                    let got = switch_recv(fd, &block, block.count, 0)
                    if got <= 0 { return false }
                    for i in 0..<got where block[i] != UInt8(truncatingIfNeeded: (offset + i) &* 31 >> 3) {
                        return false
                    }
                    offset += got
                }
                return true
            }
            let results = await withTaskGroup(of: Bool.self) { group in
                let (client, server) = (pair.client, pair.server)
                for task in [
                    {
                        write(client); return true
                    },
                    {
                        write(server); return true
                    }, { read(client) }, { read(server) },
                ] as [@Sendable () -> Bool] {
                    group.addTask { await onThread(task) }
                }
                return await group.reduce(into: []) { $0.append($1) }
            }
            #expect(results == [true, true, true, true])
        }
    }
}

/// Suites that share the process-wide tables and settings run one after the other.
@Suite(.serialized) enum SwitchSuites {}

/// Blocking calls on a thread of their own: the cooperative pool may have one only.
func onThread(_ body: @escaping @Sendable () -> Bool) async -> Bool {
    await withCheckedContinuation { continuation in
        let box = Unmanaged.passRetained(Box { continuation.resume(returning: body()) })
        _ = libc_start_thread(
            { argument in
                Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue().body()
                return nil
            }, box.toOpaque())
    }
}

private final class Box {
    let body: () -> Void
    init(_ body: @escaping () -> Void) { self.body = body }
}
