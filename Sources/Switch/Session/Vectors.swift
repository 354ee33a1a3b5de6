import CLibc
import Libc

/// The caller's buffers, as a cursor over an iovec array: how far a call has come.
struct Vectors {
    private(set) var base: UnsafePointer<iovec>
    private(set) var count: Int
    /// Bytes of the first vector already used.
    private(set) var skip = 0
    private(set) var remaining: Int

    /// Nil when the lengths overflow ssize_t (EINVAL, as readv(2) says).
    @inline(__always)
    init?(_ base: UnsafePointer<iovec>, count: Int) {
        self.base = base
        self.count = count
        var total = 0
        for i in 0..<count {
            // size_t comes as Int: what is above SSIZE_MAX is negative here.
            let (sum, overflow) = total.addingReportingOverflow(base[i].iov_len)
            if overflow || base[i].iov_len < 0 { return nil }
            total = sum
        }
        remaining = total
    }

    @inline(__always)
    mutating func advance(_ bytes: Int) {
        remaining &-= bytes
        var left = bytes
        while left > 0 {
            let here = Int(base.pointee.iov_len) &- skip
            if left < here {
                skip &+= left
                return
            }
            left &-= here
            skip = 0
            base += 1
            count &-= 1
        }
    }

    /// Calls `body` with each run of the next `bytes` bytes.
    @inline(__always)
    func forEachRun(_ bytes: Int, _ body: (UnsafeMutableRawPointer, Int) -> Void) {
        var left = min(bytes, remaining)
        var vector = base
        var used = skip
        while left > 0 {
            let run = min(left, Int(vector.pointee.iov_len) &- used)
            if run > 0, let address = vector.pointee.iov_base { body(address + used, run) }
            left &-= run
            used = 0
            vector += 1
        }
    }

    /// Whether the next `bytes` bytes may be read (or written): a bad pointer must give EFAULT, never a crash here.
    @inline(__always)
    func areValid(_ bytes: Int, forWriting: Bool) -> Bool {
        var seen = 0
        var valid = true
        forEachRun(bytes) { address, run in
            seen &+= run
            if !KnownMemory.isValid(address, run, forWriting: forWriting) { valid = false }
        }
        // A null buffer with a length is no run at all.
        return valid && seen == min(bytes, remaining)
    }

    /// Sends the next `limit` bytes by the real call.
    func send(_ fd: CInt, limit: Int, flags: CInt) -> Int {
        if skip == 0, count == 1, limit >= remaining {
            return Int(real_send(fd, base.pointee.iov_base, base.pointee.iov_len, flags))
        }
        return withMessage(limit) { Int(real_sendmsg(fd, $0, flags)) }
    }

    /// Receives at most `limit` bytes by the real call.
    func receive(_ fd: CInt, limit: Int, flags: CInt) -> Int {
        if skip == 0, count == 1, limit >= remaining {
            return Int(real_recv(fd, base.pointee.iov_base, base.pointee.iov_len, flags))
        }
        return withMessage(limit) { Int(real_recvmsg(fd, $0, flags)) }
    }

    private func withMessage(_ limit: Int, _ body: (UnsafeMutablePointer<msghdr>) -> Int) -> Int {
        let most = min(max(count, 1), 1024)  // UIO_MAXIOV
        return withUnsafeTemporaryAllocation(of: iovec.self, capacity: most) { list in
            var used = 0
            var left = min(limit, remaining)
            var offset = skip
            while used < most, used < count, left > 0 || used == 0 {
                let run = min(left, Int(base[used].iov_len) &- offset)
                list[used] = iovec(iov_base: base[used].iov_base.map { $0 + offset }, iov_len: run)
                left &-= run
                offset = 0
                used &+= 1
            }
            var message = msghdr()
            message.msg_iov = list.baseAddress
            message.msg_iovlen = used
            return body(&message)
        }
    }
}
