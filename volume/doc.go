// Package volume is block storage that outlives the instances it is attached to.
//
// There is the [Driver] interface so far, which makes the devices, with a fake in volume/fakevolume and a conformance suite
// in volume/volumetest.
package volume
