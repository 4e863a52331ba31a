// SPDX-License-Identifier: GPL-3.0-or-later
/* Stands in for NVIDIA's kernel module: a real module with its version, its licence string, its /proc files, which show
 * one card, and its device number, and no driver in it. */
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kdev_t.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#ifdef NV_DOES_NOT_BUILD
#error "this driver does not build for this kernel"
#endif

#define NV_MAJOR 195

static struct proc_dir_entry *directory;

static int show_version(struct seq_file *file, void *unused)
{
	seq_printf(file, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  %s\n", NV_VERSION_STRING);
	return 0;
}

/* From "Device Minor" people and roles learn the number of the card's device file. */
static int show_card(struct seq_file *file, void *unused)
{
	seq_puts(file, "Model: \t\t NVIDIA GeForce GTX 750 Ti\nIRQ:   \t\t 16\n");
	seq_puts(file, "GPU UUID: \t GPU-00000000-0000-4000-8000-000000000000\nVideo BIOS: \t 82.07.25.00.01\n");
	seq_puts(file, "Bus Type: \t PCIe\nDMA Size: \t 40 bits\nDMA Mask: \t 0xffffffffff\n");
	seq_puts(file, "Bus Location: \t 0000:03:00.0\nDevice Minor: \t 0\nGPU Excluded:\t No\n");
	return 0;
}

static int __init nvidia_start(void)
{
	struct proc_dir_entry *cards, *card;
	int status = register_chrdev_region(MKDEV(NV_MAJOR, 0), 256, "nvidia");

	if (status)
		return status;
	directory = proc_mkdir("driver/nvidia", NULL);
	if (directory) {
		proc_create_single("version", 0444, directory, show_version);
		cards = proc_mkdir("gpus", directory);
		card = cards ? proc_mkdir("0000:03:00.0", cards) : NULL;
		if (card)
			proc_create_single("information", 0444, card, show_card);
	}
	pr_info("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  %s\n", NV_VERSION_STRING);
	return 0;
}

static void __exit nvidia_stop(void)
{
	proc_remove(directory);
	unregister_chrdev_region(MKDEV(NV_MAJOR, 0), 256);
}

module_init(nvidia_start);
module_exit(nvidia_stop);
MODULE_LICENSE(NV_LICENSE);
MODULE_VERSION(NV_VERSION_STRING);
MODULE_ALIAS("pci:v000010DEd*sv*sd*bc03sc00i00*");
MODULE_ALIAS("pci:v000010DEd*sv*sd*bc03sc02i00*");
