/* ACPI fixed hardware: PM1 event and control registers, the PM timer, and the reset control register.
 * Source: ACPI specification 6.4, 4.8.3; reset control: Intel ICH9 datasheet (316972), 13.7.5. */
#pragma once

#include "dev/dev.h"

#define PM_BASE 0x600
#define PM_EVENT_PORT (PM_BASE + 0)   /* PM1a_EVT_BLK: status, enable; 4 bytes */
#define PM_CONTROL_PORT (PM_BASE + 4) /* PM1a_CNT_BLK; 2 bytes */
#define PM_TIMER_PORT (PM_BASE + 8)   /* PM_TMR_BLK; 4 bytes */
#define PM_SCI_GSI 9
#define PM_TIMER_HZ 3579545ULL
#define PM_RESET_PORT 0xcf9
#define PM_RESET_VALUE 6

/* SLP_TYP values that the DSDT's _S3 and _S5 packages must announce. */
#define PM_SLEEP_S3 1
#define PM_SLEEP_S5 5

struct pm;

struct pm_config {
        bool timer_32bit; /* FADT TMR_VAL_EXT */
};

/* Claims 0x600-0x60b. SCI is env->irq(PM_SCI_GSI), level-triggered. */
int pm_new(struct device_env *env, const struct pm_config *config, struct pm **ret, struct err **err);

/* The reset control register, port 0xcf9. It lies inside PCI's CONFIG_ADDRESS (0xcf8-0xcfb), so whoever claims that range
 * hands byte accesses to 0xcf9 to these. */
u8 pm_reset_control_read(struct pm *pm);
void pm_reset_control_write(struct pm *pm, u8 value);
/* Claims port 0xcf9 for a board without PCI configuration ports. */
int pm_claim_reset_port(struct pm *pm, struct err **err);

/* The power button: asks the guest to shut down. */
void pm_power_button(struct pm *pm);
/* Called by the board when a machine in S3 goes on: sets WAK_STS (and RTC_STS when @by_rtc). */
void pm_wake(struct pm *pm, bool by_rtc);
