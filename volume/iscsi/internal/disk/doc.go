// Package disk is a logical unit: a volume as SCSI commands see it, SPC-4 and SBC-3.
//
// What a unit says of itself (INQUIRY, MODE SENSE, READ CAPACITY, TEST UNIT READY) is told by gotgt's SCSI layer, one command at a time, on a unit
// that is built here, never registered anywhere, through a wrapped PerformCommand: only commands on a list reach it, with
// both buffers there, with an allocation length that does not matter, and a panic in it is a hardware error of that one
// command. Its answers are completed and cut to what was asked for.
//
// What touches data or remembers something between commands is done here: reading, writing, WRITE SAME, UNMAP, ORWRITE, COMPARE AND WRITE,
// reservations of both kinds, unit attentions, MODE SELECT, REPORT LUNS. gotgt's own versions lose data, write where they must
// not, copy everything twice, and print to the standard logger of the process.
package disk
