"""Measuring what each sublayer costs on a device."""
