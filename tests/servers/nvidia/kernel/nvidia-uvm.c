// SPDX-License-Identifier: GPL-3.0-or-later
/* Stands in for NVIDIA's unified memory module: it only has a device number, for which nvidia-modprobe makes a node. */
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kdev_t.h>
#include <linux/module.h>

static dev_t number;

static int __init uvm_start(void)
{
	return alloc_chrdev_region(&number, 0, 2, "nvidia-uvm");
}

static void __exit uvm_stop(void)
{
	unregister_chrdev_region(number, 2);
}

module_init(uvm_start);
module_exit(uvm_stop);
MODULE_LICENSE(NV_UVM_LICENSE);
MODULE_VERSION(NV_VERSION_STRING);
MODULE_SOFTDEP("pre: nvidia");
