// Package image keeps the images that instances are made of: their records, their content, and on each node a cache
// of what its instances use.
//
//	owner ──► Service ──► state      the record: name, format, status, whose it is
//	              └─────► Blobs      the content, whole or not there
//	                        │
//	                      Source     one method: open the content of an image
//	                        │
//	node:                 Cache ───► disk.qcow2, kernel and ramdisk of each instance
//
// Content is looked at by package inspect before an image becomes active, and again before a node uses it. Its format
// is declared and proven, never guessed. What is active never changes; a node's base files are copies under their
// checksum, so an image can be deleted while instances of it run.
//
// A short use, which is also the Example:
//
//	blobs, err := image.NewFiles("/srv/images")
//	service, err := image.NewService(image.ServiceConfig{Store: store, Blobs: blobs, Policy: auth.DefaultPolicy()})
//	img, err := service.Create(ctx, image.Spec{Name: "debian", Format: image.QCOW2}, file)
//
// and on a node, for an instance with a disk of 20 GiB:
//
//	cache, err := image.NewCache(image.CacheConfig{Dir: "/srv/node", Source: image.BlobSource{Blobs: blobs}})
//	disk, err := cache.Disk(ctx, instanceID, img, 20)
//
// Nothing here runs by itself: the program that owns a service calls [Service.SweepBlobs] now and then, and the owner
// of a cache [Cache.Sweep]. The schema of the store has [Images] and what
// auth.Schema returns.
package image
