// Package nodevm runs tests in a virtual machine with a kernel that has what the host's may lack: VLANs, above all.
//
// The machine is QEMU without acceleration, with Debian's kernel for clouds and its modules, and an initial ramdisk that is made here: the
// test binary, the programs that it calls, busybox for the rest. It has no network card and no disk. What the tests say comes out of
// a serial line, the kernel's console of another, and it turns itself off.
//
//	func TestInNodeVM(t *testing.T) {
//		if !nodevm.Inside() {
//			nodevm.Run(t, nodevm.Config{Tests: "^TestInNodeVM$"})
//			return
//		}
//		t.Run("VLANs", testVLANs)
//	}
package nodevm
