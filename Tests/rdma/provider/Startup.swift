import CProvider
import SANRdma

/// The RDMA provider as a shared object of its own, so that the contract test reaches it as it would reach a third party's.
@c @implementation
public func san_startup_ex(
    _ version: UInt32, _ tcp: UnsafePointer<san_protocol>?, _ upcalls: UnsafePointer<san_upcalls>?,
    _ functions: UnsafeMutablePointer<san_functions>?, _ info: UnsafeMutablePointer<san_provider_info>?
) -> CInt {
    guard let tcp, let upcalls, let functions, let info else { return -22 }
    return rdmaStartup(version: version, tcp: tcp, upcalls: upcalls, functions: functions, info: info)
}
