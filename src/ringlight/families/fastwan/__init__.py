"""FastWan: Wan2.1-T2V and Wan2.2-TI2V, distilled by FastVideo to three steps without guidance."""
